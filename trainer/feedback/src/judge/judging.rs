//! Judging comparisons (IO): questions, answers of whoever answers, verdicts, outcomes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use plumbline_crds::preference_dataset::{Budget, Order};
use plumbline_crds::status::Cost;

use super::budget::Account;
use super::dialect::Dialect;
use super::label::{self, Outcome};
use super::lexicon;
use super::question::{Comparison, Plan};
use super::runtime::{Backend, JudgeRuntime};
use super::session::Session;
use super::verdict::Verdict;
use crate::Result;

/// How comparisons are judged.
pub struct JudgeOptions<'a> {
    /// Folder of the journal.
    pub journal: &'a Path,
    /// In which orders pairs are shown, and how these are combined. A pointwise judge has no orders.
    pub order: &'a Order,
    /// What may be spent, the journal's replies included.
    pub budget: &'a Budget,
    /// Called with (questions answered, questions in all, cost so far) at the start and after each answer. An error stops
    /// the asking after the replies that are under way are safe.
    pub progress: &'a mut dyn FnMut(usize, usize, &Cost) -> Result<()>,
}

/// What a judge said.
#[derive(Debug)]
pub struct Judgements {
    /// One for each comparison, in order.
    pub outcomes: Vec<Outcome>,
    /// The questions.
    pub plan: Plan,
    /// One for each question.
    pub verdicts: Vec<Verdict>,
    /// Why questions had no reply or no verdict, with how often.
    pub reasons: BTreeMap<String, i64>,
    /// Models that answered, by their own word.
    pub models: BTreeSet<String>,
    /// How the server was asked: one, unless its parts take different requests.
    pub dialects: BTreeSet<Dialect>,
    /// What the replies cost, those that were in the journal included.
    pub cost: Cost,
    /// Replies whose count of tokens cannot be; their bound is charged.
    pub implausible: i64,
}

impl Judgements {
    /// For each comparison the probability that response a is better, one half for a tie. `None` if there is no verdict:
    /// that is no vote, for neither side.
    pub fn probabilities(&self) -> Vec<Option<f64>> {
        self.outcomes.iter().map(|o| o.label().map(|l| l.p)).collect()
    }

    /// How many questions had which verdict, by [`Verdict::KINDS`].
    pub fn counts(&self) -> BTreeMap<&'static str, i64> {
        let mut counts: BTreeMap<_, _> = Verdict::KINDS.into_iter().map(|k| (k, 0)).collect();
        for verdict in &self.verdicts {
            *counts.entry(verdict.kind()).or_default() += 1;
        }
        counts
    }
}

/// Judges comparisons in both orders by mean log-odds (pairwise), or by the difference of two scores (pointwise), without
/// a budget. `journal` is a folder that survives a restart; `progress` is as in [`JudgeOptions`].
///
/// Errors: `JudgeUnavailable` (try again later: the answers so far are safe), `JudgeRejected` (key, quota, model or
/// protocol), `Store`.
pub fn compare(
    runtime: &JudgeRuntime,
    items: &[Comparison<'_>],
    journal: &Path,
    progress: &mut dyn FnMut(usize, usize, &Cost) -> Result<()>,
) -> Result<Judgements> {
    let (order, budget) = (Order::default(), Budget::default());
    judge(runtime, items, JudgeOptions { journal, order: &order, budget: &budget, progress })
}

/// Judges comparisons. Errors as [`compare`], and `BudgetExhausted`.
pub fn judge(runtime: &JudgeRuntime, items: &[Comparison<'_>], asking: JudgeOptions<'_>) -> Result<Judgements> {
    let JudgeOptions { journal, order, budget, progress } = asking;
    let plan = runtime.prompt.plan(&runtime.identity, items, order)?;
    let total = plan.questions.len();
    let mut judged = match &runtime.backend {
        Backend::Lexicon(vader) => {
            progress(0, total, &Cost::default())?;
            let verdicts = plan.questions.iter().map(|q| lexicon::verdict(vader, &q.text)).collect();
            progress(total, total, &Cost::default())?;
            Judgements::of(plan, verdicts)
        }
        Backend::Endpoint(target) => {
            let account = Account::open(budget, &runtime.spec, &runtime.field)?;
            let session = Session::open(runtime, target, account, journal, total)?;
            let (answers, cost, implausible) = session.ask_all(&plan.questions, progress)?;
            let verdicts: Vec<Verdict> = answers.iter().map(|a| a.verdict(&runtime.prompt)).collect();
            let mut judged = Judgements::of(plan, verdicts);
            judged.cost = cost;
            judged.implausible = implausible;
            judged.models = answers.iter().filter_map(|a| a.reply()?.model.clone()).collect();
            judged.dialects = answers.iter().filter_map(|a| Some(a.reply()?.dialect)).collect();
            for (answer, verdict) in answers.iter().zip(&judged.verdicts) {
                if let Some(reason) = answer.reason(verdict) {
                    *judged.reasons.entry(reason.to_owned()).or_default() += 1;
                }
            }
            judged
        }
    };
    judged.outcomes = label::outcomes(&judged.plan, &judged.verdicts, order.combine);
    Ok(judged)
}

impl Judgements {
    /// Verdicts that no outcome was drawn from yet.
    pub(super) fn of(plan: Plan, verdicts: Vec<Verdict>) -> Self {
        Self {
            outcomes: Vec::new(),
            plan,
            verdicts,
            reasons: BTreeMap::new(),
            models: BTreeSet::new(),
            dialects: BTreeSet::new(),
            cost: Cost::default(),
            implausible: 0,
        }
    }
}
