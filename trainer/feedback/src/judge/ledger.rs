//! What may be spent and what was. Computes only.
//!
//! The bound of a question is reserved before it is sent and replaced by the server's own count when the reply is there, so
//! that questions in flight together, whichever judges they are to, cannot overrun the budget together.

use plumbline_crds::judge::{Judge, Price};
use plumbline_crds::preference_dataset::Budget;
use plumbline_crds::status::Cost;

use super::wire::Usage;
use crate::{Error, Result};

/// Tokens around the text of a chat request (roles, template), at most.
const OVERHEAD: i64 = 64;
/// Tokens beyond what was asked that a server's count is believed to hold: a prompt of its own before ours, reasoning after
/// it. It is the context window of large models; what is beyond both is a mistake of the server's, not a charge.
const BELIEVED_BEYOND: i64 = 131_072;
/// The largest number that a status holds: 2^53 - 1, up to which JSON's numbers are exact everywhere.
const MOST_IN_STATUS: i64 = (1 << 53) - 1;

/// What the judges of a dataset have spent of one budget. A judge is named by its index.
#[derive(Clone, Debug)]
pub struct Ledger {
    budget: Budget,
    accounts: Vec<Account>,
}

#[derive(Clone, Debug, Default)]
struct Account {
    price: Option<Price>,
    spent: Spent,
    reserved: Spent,
    implausible: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spent {
    requests: i64,
    prompt: i64,
    completion: i64,
}

/// What a question may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Tokens.
    pub tokens: Usage,
}

impl Bound {
    /// The bound of a question: two bytes a token, which no common tokenizer exceeds on text, and every token that the
    /// reply may have.
    pub fn new(bytes: usize, max_tokens: i64) -> Self {
        Self { tokens: Usage { prompt: bytes as i64 / 2 + OVERHEAD, completion: max_tokens } }
    }

    /// Prompt and completion.
    pub fn total(&self) -> i64 {
        self.tokens.total()
    }

    /// Whether a server's count can be what a question of this bound was charged. A prompt is at most twice its bound, a
    /// token a byte.
    pub fn believes(&self, usage: Usage) -> bool {
        let most = [
            self.tokens.prompt.saturating_mul(2).saturating_add(BELIEVED_BEYOND),
            self.tokens.completion.saturating_add(BELIEVED_BEYOND),
        ];
        (0..=most[0]).contains(&usage.prompt) && (0..=most[1]).contains(&usage.completion)
    }
}

impl Ledger {
    /// A ledger for these judges, each with its spec field for messages.
    ///
    /// # Errors
    /// `Config` if money is limited and a price is missing, or prices are in several currencies.
    pub fn open(budget: &Budget, judges: &[(&Judge, &str)]) -> Result<Self> {
        if budget.max_cost.is_some() {
            let asked = || judges.iter().filter(|(judge, _)| judge.endpoint.is_some());
            if let Some((_, field)) = asked().find(|(judge, _)| judge.price.is_none()) {
                return Err(Error::Config(format!(
                    "spec.budget.maxCost needs {field}.price: without a price the cost of a request is unknown; set \
                     the price, or limit spec.budget.maxRequests"
                )));
            }
            let mut priced = asked().filter_map(|(judge, field)| Some((&judge.price.as_ref()?.currency, field)));
            if let Some((first, _)) = priced.next()
                && let Some((other, field)) = priced.find(|(currency, _)| *currency != first)
            {
                return Err(Error::Config(format!(
                    "{field}.price.currency: expected {first} as for the other judges, because spec.budget.maxCost is \
                     a single amount, found {other}"
                )));
            }
        }
        let account = |(judge, _): &(&Judge, &str)| Account { price: judge.price.clone(), ..Account::default() };
        Ok(Self { budget: budget.clone(), accounts: judges.iter().map(account).collect() })
    }

    /// Reserves the bound of a request to a judge; an error says which limit it would pass.
    pub fn reserve(&mut self, judge: usize, bound: &Bound) -> Result<(), String> {
        let made = self.accounts.iter().map(|a| a.spent.requests.saturating_add(a.reserved.requests));
        let made = made.fold(0, i64::saturating_add);
        if let Some(limit) = self.budget.max_requests
            && made >= limit
        {
            return Err(format!("spec.budget.maxRequests is {limit}, and {made} requests have been sent"));
        }
        if let (Some(limit), Some(price)) = (self.budget.max_cost, &self.accounts[judge].price) {
            let with = |i: usize, account: &Account| {
                let mut all = account.spent;
                all.add(0, account.reserved.tokens(), 1);
                if i == judge {
                    all.add(0, bound.tokens, 1);
                }
                account.amount(all)
            };
            let next: f64 = self.accounts.iter().enumerate().map(|(i, account)| with(i, account)).sum();
            if next > limit {
                let spent: f64 = self.accounts.iter().map(|account| account.amount(account.spent)).sum();
                return Err(format!(
                    "spec.budget.maxCost is {limit} {}, {spent:.6} has been spent, and the next question may cost more \
                     than the rest",
                    price.currency
                ));
            }
        }
        self.accounts[judge].reserved.add(1, bound.tokens, 1);
        Ok(())
    }

    /// Gives a reservation back: the request was not answered, and not charged.
    pub fn release(&mut self, judge: usize, bound: &Bound) {
        self.accounts[judge].reserved.add(-1, bound.tokens, -1);
    }

    /// Counts an answered request and returns what is charged for it: what the server says it used, or the bound where the
    /// server says nothing, or what cannot be.
    pub fn settle(&mut self, judge: usize, bound: &Bound, usage: Option<Usage>) -> Usage {
        let believed = usage.filter(|usage| bound.believes(*usage));
        let account = &mut self.accounts[judge];
        account.implausible += i64::from(usage.is_some() && believed.is_none());
        let charged = believed.unwrap_or(bound.tokens);
        account.spent.add(1, charged, 1);
        charged
    }

    /// Replies of a judge whose count of tokens was not believed.
    pub fn implausible(&self, judge: usize) -> i64 {
        self.accounts[judge].implausible
    }

    /// What a judge has cost.
    pub fn cost(&self, judge: usize) -> Cost {
        total(&self.accounts[judge..=judge])
    }

    /// What all judges have cost. Its amount is that of the judges with a price, unless these are in several currencies.
    pub fn total(&self) -> Cost {
        total(&self.accounts)
    }
}

fn total(accounts: &[Account]) -> Cost {
    let mut spent = Spent::default();
    for account in accounts {
        spent.add(account.spent.requests, account.spent.tokens(), 1);
    }
    let mut currencies: Vec<&String> = accounts.iter().filter_map(|a| Some(&a.price.as_ref()?.currency)).collect();
    currencies.sort_unstable();
    currencies.dedup();
    let currency = if let [one] = currencies.as_slice() { Some((*one).clone()) } else { None };
    let amount: f64 = accounts.iter().map(|account| account.amount(account.spent)).sum();
    let shown = |n: i64| n.clamp(0, MOST_IN_STATUS);
    Cost {
        requests: shown(spent.requests),
        prompt_tokens: shown(spent.prompt),
        completion_tokens: shown(spent.completion),
        amount: currency.as_ref().map(|_| format!("{amount:.6}")),
        currency,
    }
}

impl Account {
    /// Money for tokens; none without a price.
    fn amount(&self, tokens: Spent) -> f64 {
        self.price.as_ref().map_or(0.0, |price| {
            (tokens.prompt as f64 * price.input_per_million_tokens
                + tokens.completion as f64 * price.output_per_million_tokens)
                / 1e6
        })
    }
}

impl Spent {
    fn tokens(&self) -> Usage {
        Usage { prompt: self.prompt, completion: self.completion }
    }

    fn add(&mut self, requests: i64, tokens: Usage, sign: i64) {
        self.requests = self.requests.saturating_add(requests);
        self.prompt = self.prompt.saturating_add(sign.saturating_mul(tokens.prompt));
        self.completion = self.completion.saturating_add(sign.saturating_mul(tokens.completion));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(price: bool) -> Judge {
        let mut judge = serde_json::json!({"name": "j", "endpoint": {"url": "http://x", "model": "m"}});
        if price {
            judge["price"] = serde_json::json!({"inputPerMillionTokens": 1.0, "outputPerMillionTokens": 10.0});
        }
        serde_json::from_value(judge).unwrap()
    }

    fn account(max_cost: Option<f64>, max_requests: Option<i64>) -> Ledger {
        Ledger::open(&Budget { max_cost, max_requests }, &[(&judge(true), "spec.judges[0]")]).unwrap()
    }

    #[test]
    fn what_is_reserved_counts_until_it_is_settled_or_given_back() {
        let bound = Bound::new(872, 50); // 500 prompt tokens: 0.0005 + 0.0005 = 0.001
        let mut a = account(Some(0.0025), None);
        a.reserve(0, &bound).unwrap();
        a.reserve(0, &bound).unwrap();
        assert!(a.reserve(0, &bound).unwrap_err().contains("maxCost is 0.0025 USD"));
        a.release(0, &bound);
        a.reserve(0, &bound).unwrap();
        a.release(0, &bound);
        a.settle(0, &bound, Some(Usage { prompt: 100, completion: 1 }));
        assert_eq!(a.total().amount.as_deref(), Some("0.000110"));
        a.reserve(0, &bound).unwrap();
    }

    #[test]
    fn a_server_that_says_nothing_is_charged_the_bound() {
        let bound = Bound::new(872, 50);
        let mut a = account(None, Some(1));
        a.settle(0, &bound, None);
        assert_eq!((a.total().prompt_tokens, a.total().completion_tokens, a.total().requests), (500, 50, 1));
        assert!(a.reserve(0, &bound).unwrap_err().contains("maxRequests is 1"));
    }

    #[test]
    fn a_count_that_cannot_be_is_not_believed_and_the_bound_is_charged() {
        let bound = Bound::new(872, 50);
        for (prompt, completion) in [
            (i64::MAX, 1),
            (i64::MAX, i64::MAX),
            (1 << 62, 1 << 62),
            (1_000_000_000_000_000, 1),
            (50, 1_000_000),
            (-5, 1),
            (i64::MIN, i64::MIN),
        ] {
            let mut a = account(Some(0.01), None);
            for _ in 0..9 {
                a.reserve(0, &bound).unwrap();
                a.release(0, &bound);
                assert_eq!(
                    a.settle(0, &bound, Some(Usage { prompt, completion })),
                    bound.tokens,
                    "{prompt} {completion}"
                );
            }
            assert_eq!((a.total().prompt_tokens, a.total().completion_tokens, a.implausible(0)), (4500, 450, 9));
            assert!(a.reserve(0, &bound).is_ok() && a.reserve(0, &bound).is_err(), "the budget holds");
        }
        let mut a = account(Some(0.5), None);
        for (prompt, completion) in [(100_000, 1), (1, 0), (900, 40_000)] {
            let usage = Usage { prompt, completion };
            assert_eq!(a.settle(0, &bound, Some(usage)), usage, "what a server may charge is charged");
        }
        assert_eq!(a.implausible(0), 0);
    }

    #[test]
    fn sums_end_at_the_largest_number_that_a_status_holds() {
        let mut a = account(None, None);
        let most = Bound { tokens: Usage { prompt: i64::MAX, completion: i64::MAX } };
        for _ in 0..3 {
            a.reserve(0, &most).unwrap();
            a.settle(0, &most, None);
        }
        let cost = a.total();
        assert_eq!((cost.prompt_tokens, cost.completion_tokens), (MOST_IN_STATUS, MOST_IN_STATUS));
        assert!(cost.amount.is_some_and(|amount| amount.len() <= 32 && !amount.starts_with('-')));
    }

    #[test]
    fn a_money_limit_without_a_price_is_refused_rather_than_counted_as_free() {
        let budget = Budget { max_cost: Some(1.0), max_requests: None };
        let open = |budget: &Budget, judge: &Judge| Ledger::open(budget, &[(judge, "spec.judges[0]")]);
        let error = open(&budget, &judge(false)).unwrap_err().to_string();
        assert!(error.contains("spec.judges[0].price"), "{error}");
        assert_eq!(open(&Budget::default(), &judge(false)).unwrap().total().amount, None);
    }

    fn two(budget: &Budget, second: Option<(f64, &str)>) -> Result<Ledger> {
        let mut other = judge(second.is_some());
        if let Some((input, currency)) = second {
            let price = other.price.as_mut().unwrap();
            (price.input_per_million_tokens, price.currency) = (input, currency.into());
        }
        Ledger::open(budget, &[(&judge(true), "spec.judges[0]"), (&other, "spec.judges[1]")])
    }

    #[test]
    fn two_judges_spend_one_budget_each_at_its_price() {
        let bound = Bound::new(872, 50); // 0.001 at the first price, 0.005 + 0.0005 at the second
        let mut ledger = two(&Budget { max_cost: Some(0.0075), max_requests: None }, Some((10.0, "USD"))).unwrap();
        ledger.reserve(1, &bound).unwrap();
        assert!(ledger.reserve(1, &bound).unwrap_err().contains("maxCost is 0.0075 USD"));
        ledger.reserve(0, &bound).unwrap();
        ledger.release(1, &bound);
        ledger.settle(1, &bound, None);
        ledger.release(0, &bound);
        ledger.settle(0, &bound, Some(Usage { prompt: 100, completion: 1 }));
        assert_eq!(
            (ledger.cost(0).amount.as_deref(), ledger.cost(1).amount.as_deref()),
            (Some("0.000110"), Some("0.005500"))
        );
        let total = ledger.total();
        assert_eq!((total.requests, total.prompt_tokens, total.amount.as_deref()), (2, 600, Some("0.005610")));
        let mut ledger = two(&Budget { max_cost: None, max_requests: Some(2) }, None).unwrap();
        ledger.reserve(0, &bound).unwrap();
        ledger.reserve(1, &bound).unwrap();
        assert!(ledger.reserve(0, &bound).unwrap_err().contains("2 requests have been sent"));
    }

    #[test]
    fn prices_in_two_currencies_are_no_sum() {
        let limited = Budget { max_cost: Some(1.0), max_requests: None };
        let error = two(&limited, Some((1.0, "EUR"))).unwrap_err().to_string();
        assert!(error.contains("spec.judges[1].price.currency: expected USD") && error.ends_with("EUR"), "{error}");
        let ledger = two(&Budget::default(), Some((1.0, "EUR"))).unwrap();
        assert_eq!((ledger.total().amount, ledger.cost(1).currency.as_deref()), (None, Some("EUR")));
    }
}
