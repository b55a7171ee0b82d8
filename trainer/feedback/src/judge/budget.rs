//! What may be spent and what was. Computes only.
//!
//! The bound of a question is reserved before it is sent and replaced by the server's own count when the reply is there, so
//! that questions in flight together cannot overrun the budget together.

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

/// Accounts of one judge.
#[derive(Clone, Debug)]
pub struct Account {
    budget: Budget,
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

impl Account {
    /// An account. `field` is the spec field of the budget, `judge_field` that of the judge, for messages.
    pub fn open(budget: &Budget, judge: &Judge, judge_field: &str) -> Result<Self> {
        if budget.max_cost.is_some() && judge.price.is_none() && judge.endpoint.is_some() {
            return Err(Error::Config(format!(
                "spec.budget.maxCost needs {judge_field}.price: without a price the cost of a request is unknown; set \
                 the price, or limit spec.budget.maxRequests"
            )));
        }
        Ok(Self {
            budget: budget.clone(),
            price: judge.price.clone(),
            spent: Spent::default(),
            reserved: Spent::default(),
            implausible: 0,
        })
    }

    /// Reserves the bound of a question; an error says which limit it would pass.
    pub fn reserve(&mut self, bound: &Bound) -> Result<(), String> {
        let sum = |f: fn(&Spent) -> i64| f(&self.spent).saturating_add(f(&self.reserved));
        let requests = sum(|s| s.requests).saturating_add(1);
        if let Some(limit) = self.budget.max_requests
            && requests > limit
        {
            return Err(format!("spec.budget.maxRequests is {limit}, and {} requests have been sent", requests - 1));
        }
        if let (Some(limit), Some(price)) = (self.budget.max_cost, &self.price) {
            let next = amount(
                price,
                sum(|s| s.prompt).saturating_add(bound.tokens.prompt),
                sum(|s| s.completion).saturating_add(bound.tokens.completion),
            );
            if next > limit {
                return Err(format!(
                    "spec.budget.maxCost is {limit} {}, {:.6} has been spent, and the next question may cost more \
                     than the rest",
                    price.currency,
                    amount(price, self.spent.prompt, self.spent.completion)
                ));
            }
        }
        self.reserved.add(1, bound.tokens, 1);
        Ok(())
    }

    /// Gives a reservation back: the question was not answered, and not charged.
    pub fn release(&mut self, bound: &Bound) {
        self.reserved.add(-1, bound.tokens, -1);
    }

    /// Counts an answered question and returns what is charged for it: what the server says it used, or the bound where the
    /// server says nothing, or what cannot be.
    pub fn settle(&mut self, bound: &Bound, usage: Option<Usage>) -> Usage {
        let believed = usage.filter(|usage| bound.believes(*usage));
        self.implausible += i64::from(usage.is_some() && believed.is_none());
        let charged = believed.unwrap_or(bound.tokens);
        self.spent.add(1, charged, 1);
        charged
    }

    /// Replies whose count of tokens was not believed.
    pub fn implausible(&self) -> i64 {
        self.implausible
    }

    /// What was spent.
    pub fn cost(&self) -> Cost {
        let Spent { requests, prompt, completion } = self.spent;
        let shown = |n: i64| n.clamp(0, MOST_IN_STATUS);
        Cost {
            requests: shown(requests),
            prompt_tokens: shown(prompt),
            completion_tokens: shown(completion),
            amount: self.price.as_ref().map(|p| format!("{:.6}", amount(p, prompt, completion))),
            currency: self.price.as_ref().map(|p| p.currency.clone()),
        }
    }
}

impl Spent {
    fn add(&mut self, requests: i64, tokens: Usage, sign: i64) {
        self.requests = self.requests.saturating_add(requests);
        self.prompt = self.prompt.saturating_add(sign.saturating_mul(tokens.prompt));
        self.completion = self.completion.saturating_add(sign.saturating_mul(tokens.completion));
    }
}

/// Money for tokens.
fn amount(price: &Price, prompt: i64, completion: i64) -> f64 {
    (prompt as f64 * price.input_per_million_tokens + completion as f64 * price.output_per_million_tokens) / 1e6
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

    fn account(max_cost: Option<f64>, max_requests: Option<i64>) -> Account {
        Account::open(&Budget { max_cost, max_requests }, &judge(true), "spec.judges[0]").unwrap()
    }

    #[test]
    fn what_is_reserved_counts_until_it_is_settled_or_given_back() {
        let bound = Bound::new(872, 50); // 500 prompt tokens: 0.0005 + 0.0005 = 0.001
        let mut a = account(Some(0.0025), None);
        a.reserve(&bound).unwrap();
        a.reserve(&bound).unwrap();
        assert!(a.reserve(&bound).unwrap_err().contains("maxCost is 0.0025 USD"));
        a.release(&bound);
        a.reserve(&bound).unwrap();
        a.release(&bound);
        a.settle(&bound, Some(Usage { prompt: 100, completion: 1 }));
        assert_eq!(a.cost().amount.as_deref(), Some("0.000110"));
        a.reserve(&bound).unwrap();
    }

    #[test]
    fn a_server_that_says_nothing_is_charged_the_bound() {
        let bound = Bound::new(872, 50);
        let mut a = account(None, Some(1));
        a.settle(&bound, None);
        assert_eq!((a.cost().prompt_tokens, a.cost().completion_tokens, a.cost().requests), (500, 50, 1));
        assert!(a.reserve(&bound).unwrap_err().contains("maxRequests is 1"));
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
                a.reserve(&bound).unwrap();
                a.release(&bound);
                assert_eq!(a.settle(&bound, Some(Usage { prompt, completion })), bound.tokens, "{prompt} {completion}");
            }
            assert_eq!((a.cost().prompt_tokens, a.cost().completion_tokens, a.implausible()), (4500, 450, 9));
            assert!(a.reserve(&bound).is_ok() && a.reserve(&bound).is_err(), "the budget holds");
        }
        let mut a = account(Some(0.5), None);
        for (prompt, completion) in [(100_000, 1), (1, 0), (900, 40_000)] {
            let usage = Usage { prompt, completion };
            assert_eq!(a.settle(&bound, Some(usage)), usage, "what a server may charge is charged");
        }
        assert_eq!(a.implausible(), 0);
    }

    #[test]
    fn sums_end_at_the_largest_number_that_a_status_holds() {
        let mut a = account(None, None);
        let most = Bound { tokens: Usage { prompt: i64::MAX, completion: i64::MAX } };
        for _ in 0..3 {
            a.reserve(&most).unwrap();
            a.settle(&most, None);
        }
        let cost = a.cost();
        assert_eq!((cost.prompt_tokens, cost.completion_tokens), (MOST_IN_STATUS, MOST_IN_STATUS));
        assert!(cost.amount.is_some_and(|amount| amount.len() <= 32 && !amount.starts_with('-')));
    }

    #[test]
    fn a_money_limit_without_a_price_is_refused_rather_than_counted_as_free() {
        let budget = Budget { max_cost: Some(1.0), max_requests: None };
        let error = Account::open(&budget, &judge(false), "spec.judges[0]").unwrap_err().to_string();
        assert!(error.contains("spec.judges[0].price"), "{error}");
        assert_eq!(Account::open(&Budget::default(), &judge(false), "j").unwrap().cost().amount, None);
    }
}
