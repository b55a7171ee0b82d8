//! The budget for judging, and what has been spent of it. Computes only.
//!
//! The upper bound of a question's cost is reserved before it is sent, and replaced by the server's count once the
//! reply has arrived, so that concurrent questions, whichever judge they go to, cannot exceed the budget together.

use plumbline_crds::judge::{Judge, Price};
use plumbline_crds::preference_dataset::Budget;
use plumbline_crds::status::Cost;

use super::wire::Usage;
use crate::{Error, Result};

/// Maximum number of tokens around the text of a chat request (roles, template).
const OVERHEAD: i64 = 64;
/// Maximum number of tokens beyond the request that a server may plausibly report: a system prompt of its own,
/// reasoning. This is the context window of large models; anything beyond is treated as an error of the server, not as
/// a charge.
const BELIEVED_BEYOND: i64 = 131_072;
/// The largest number in a status: 2^53 - 1, up to which JSON numbers are exact everywhere.
const MOST_IN_STATUS: i64 = (1 << 53) - 1;

/// What the judges of a dataset have spent of a common budget. A judge is identified by its index.
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

/// The maximum cost of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Tokens.
    pub tokens: Usage,
}

impl Bound {
    /// The bound of a question: one token per two bytes, which no common tokenizer exceeds on text, and the maximum
    /// length of the reply.
    pub fn new(bytes: usize, max_tokens: i64) -> Self {
        Self { tokens: Usage { prompt: bytes as i64 / 2 + OVERHEAD, completion: max_tokens } }
    }

    /// Sum of prompt and completion tokens.
    pub fn total(&self) -> i64 {
        self.tokens.total()
    }

    /// Whether a server's token count is plausible for a question with this bound. A prompt has at most twice its
    /// bound, that is one token per byte.
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
    /// `Config` if the amount of money is limited and a price is missing, or if prices are in several currencies.
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

    /// Reserves the bound of a request to a judge. The error names the limit that it would exceed.
    pub fn reserve(&mut self, judge: usize, bound: &Bound) -> Result<(), String> {
        let made = self.accounts.iter().map(|a| a.spent.requests.saturating_add(a.reserved.requests));
        let made = made.fold(0, i64::saturating_add);
        if let Some(limit) = self.budget.max_requests
            && made >= limit
        {
            return Err(format!("spec.budget.maxRequests is {limit}, and {made} requests have been made"));
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

    /// Releases a reservation: the request was not answered, and not charged.
    pub fn release(&mut self, judge: usize, bound: &Bound) {
        self.accounts[judge].reserved.add(-1, bound.tokens, -1);
    }

    /// Counts an answered request and returns the charge: the server's count, or the bound if the server reports none
    /// or an implausible one.
    pub fn settle(&mut self, judge: usize, bound: &Bound, usage: Option<Usage>) -> Usage {
        let believed = usage.filter(|usage| bound.believes(*usage));
        let account = &mut self.accounts[judge];
        account.implausible += i64::from(usage.is_some() && believed.is_none());
        let charged = believed.unwrap_or(bound.tokens);
        account.spent.add(1, charged, 1);
        charged
    }

    /// Number of a judge's replies with an implausible token count.
    pub fn implausible(&self, judge: usize) -> i64 {
        self.accounts[judge].implausible
    }

    /// The cost of a judge so far.
    pub fn cost(&self, judge: usize) -> Cost {
        total(&self.accounts[judge..=judge])
    }

    /// The cost of all judges so far. The amount is the sum over judges with a price, unless they use several
    /// currencies.
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
    /// The price of tokens; 0 if no price is set.
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
    fn reservations_count_until_settled_or_released() {
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
    fn a_reply_without_usage_is_charged_the_bound() {
        let bound = Bound::new(872, 50);
        let mut a = account(None, Some(1));
        a.settle(0, &bound, None);
        assert_eq!((a.total().prompt_tokens, a.total().completion_tokens, a.total().requests), (500, 50, 1));
        assert!(a.reserve(0, &bound).unwrap_err().contains("maxRequests is 1"));
    }

    #[test]
    fn a_reply_with_implausible_usage_is_charged_the_bound() {
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
    fn sums_saturate_at_the_largest_number_in_a_status() {
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
    fn a_money_limit_without_a_price_is_rejected() {
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
    fn two_judges_share_one_budget_each_at_its_price() {
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
        assert!(ledger.reserve(0, &bound).unwrap_err().contains("2 requests have been made"));
    }

    #[test]
    fn prices_in_two_currencies_are_not_added() {
        let limited = Budget { max_cost: Some(1.0), max_requests: None };
        let error = two(&limited, Some((1.0, "EUR"))).unwrap_err().to_string();
        assert!(error.contains("spec.judges[1].price.currency: expected USD") && error.ends_with("EUR"), "{error}");
        let ledger = two(&Budget::default(), Some((1.0, "EUR"))).unwrap();
        assert_eq!((ledger.total().amount, ledger.cost(1).currency.as_deref()), (None, Some("EUR")));
    }
}
