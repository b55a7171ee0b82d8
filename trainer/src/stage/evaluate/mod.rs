//! Evaluation: compares the tuned model with the model it was tuned from, on held-out prompts, by a judge and by
//! metrics that were not used in training.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use plumbline_crds::run::RunDocument;
use plumbline_crds::status::Cost;
use plumbline_feedback::data::Content;
use plumbline_feedback::data::responses::Finish;
use plumbline_feedback::data::tokens::Sequence;
use plumbline_feedback::files;
use plumbline_feedback::judge::{Comparison, JudgeRuntime, compare};
use plumbline_feedback::measure::Vader;
use plumbline_feedback::measure::distinct::{Diversity, diversity};
use plumbline_feedback::measure::win_rate::{self, WinRate, win_rate};
use plumbline_feedback::report::Progress;
use plumbline_feedback::shutdown;
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::generate::{PromptTokens, Response, generate};
use crate::model::reward_model::RewardModel;
use crate::model::view::ModelView;
use crate::train::responses::response_logprobs;
use crate::{Error, Result};

mod finished;
mod prepare;
mod show;
mod sides;

pub use finished::{ARTIFACT, FOLDER, run};
pub use prepare::Prepared;
pub use sides::Sides;
use sides::Which;

/// Responses to held-out prompts before and after tuning, and their measurements.
pub struct Evaluation {
    prompts: Vec<Content>,
    /// Prompts that were skipped as duplicates of earlier ones.
    duplicates: usize,
    before: Measured,
    after: Measured,
    /// Probability that the response after tuning is better, `[prompts][samples]`; none where the verdict failed.
    better: Vec<Vec<Option<f64>>>,
    win_rate: Option<WinRate>,
    /// KL(after || before) in nats per response, estimated on responses of the tuned model.
    kl: f64,
    judge: Option<String>,
    /// Comparisons that were judged in both orders, and how many of them favour different responses by order.
    conflicts: Option<(usize, usize)>,
    /// Whether judge and policy have the same weights.
    judge_shares_weights: bool,
    /// What the judge cost.
    pub cost: Option<Cost>,
}

/// Measurements of one model's responses.
struct Measured {
    /// `[prompts][samples]`.
    texts: Vec<Vec<String>>,
    /// Mean valence by lexicon.
    lexicons: BTreeMap<String, f64>,
    /// The reward model's scores, `[prompts][samples]`.
    rewards: Option<Vec<Vec<f64>>>,
    diversity: Option<Diversity>,
    /// Mean tokens per response.
    length: f64,
    /// Fraction of responses that end with an end token or a stop string.
    ended: f64,
}

/// One model's responses in the work directory, so that a restart does not sample again.
#[derive(Deserialize, Serialize)]
struct KeptResponses {
    /// Hash of the prompts, the model and the sampling; responses with a different hash are not reused.
    asked: String,
    /// `[prompts][samples]`.
    responses: Vec<Vec<Response>>,
}

/// Compares two models.
pub fn evaluate(
    run: &RunDocument,
    prepared: Prepared,
    tokenizer: &Tokenizer,
    mut sides: Sides,
    reward: Option<&RewardModel>,
    progress: &mut Progress,
) -> Result<Evaluation> {
    let Prepared { wanted, prompts, duplicates, asked, lexicons, judge, identity } = prepared;
    let samples = wanted.samples_per_prompt as usize;
    let total = (asked.len() * samples) as i64;
    let mut respond = |which: Which| -> Result<Vec<Vec<Response>>> {
        let name = which.name();
        let path = Path::new(&run.work).join(format!("evaluation-{name}.json"));
        if let Some(kept) = files::kept::<KeptResponses>(&path)?.filter(|kept| kept.asked == identity) {
            return Ok(kept.responses);
        }
        let side = sides.side(which)?;
        progress.stage(&format!("Sampling {name}"), total);
        let mut tick = |done: usize| {
            progress.advance(done as i64);
            if shutdown::requested() { Err(Error::Interrupted) } else { Ok(()) }
        };
        let responses = generate(side.decoder, side.adapters, tokenizer, &asked, samples, &wanted.sampling, &mut tick)?;
        let kept = KeptResponses { asked: identity.clone(), responses };
        files::keep(&path, &kept)?;
        Ok(kept.responses)
    };
    let texts_before = respond(Which::Before)?;
    let texts_after = respond(Which::After)?;

    progress.stage("Measuring", 1);
    let sequences: Vec<Sequence> = asked
        .iter()
        .zip(&texts_after)
        .flat_map(|(p, responses)| responses.iter().map(|r| sequence(p, r)))
        .filter(|s| !s.response.is_empty())
        .collect();
    let kl = mean_kl(&mut sides, &sequences)?;
    drop(sides);
    let conversations: Vec<bool> = prompts.iter().map(|p| matches!(p.content, Content::Messages(_))).collect();
    let mut evaluation = Evaluation {
        before: Measured::new(&asked, &conversations, texts_before, &lexicons, reward, tokenizer.end_of_text()),
        after: Measured::new(&asked, &conversations, texts_after, &lexicons, reward, tokenizer.end_of_text()),
        better: Vec::new(),
        win_rate: None,
        kl,
        judge: None,
        conflicts: None,
        judge_shares_weights: false,
        cost: None,
        prompts: prompts.into_iter().map(|p| p.content).collect(),
        duplicates,
    };
    if let Some(judge) = judge {
        evaluation.ask(&judge, &Path::new(&run.work).join("evaluation-journal"), progress)?;
        let digest = |role: &str| run.input(role).map(|i| i.digest.as_str());
        evaluation.judge_shares_weights =
            judge.spec.model.is_some() && digest("evaluation.judge.model") == digest("policyModel");
    }
    Ok(evaluation)
}

impl Evaluation {
    /// Asks the judge which response to each prompt is better, in both orders. Failed verdicts are not counted.
    fn ask(&mut self, runtime: &JudgeRuntime, journal: &Path, progress: &mut Progress) -> Result<()> {
        let mut items = Vec::new();
        for (p, prompt) in self.prompts.iter().enumerate() {
            for (a, b) in self.after.texts[p].iter().zip(&self.before.texts[p]) {
                items.push(Comparison { prompt, response_a: a, response_b: b });
            }
        }
        progress.stage("Judging", 1);
        let mut begun = false;
        let mut tick = |done: usize, total: usize, cost: &Cost| {
            if !std::mem::replace(&mut begun, true) {
                progress.stage("Judging", total as i64);
            }
            progress.advance(done as i64);
            progress.cost(cost);
            if shutdown::requested() { Err(Error::Interrupted) } else { Ok(()) }
        };
        let judged = compare(runtime, &items, journal, &mut tick)?;
        let mut probabilities = judged.probabilities().into_iter();
        self.better = self.after.texts.iter().map(|r| probabilities.by_ref().take(r.len()).collect()).collect();
        let comparisons: Vec<win_rate::Comparison> = self
            .better
            .iter()
            .enumerate()
            .flat_map(|(p, r)| r.iter().map(move |&win| win_rate::Comparison { prompt: p as u64, win }))
            .collect();
        self.win_rate = win_rate(&comparisons);
        let orders: Vec<bool> = judged.outcomes.iter().filter_map(|o| o.label()?.conflict).collect();
        self.conflicts = (!orders.is_empty()).then(|| (orders.len(), orders.iter().filter(|c| **c).count()));
        self.judge = Some(runtime.model_name());
        self.cost = Some(judged.cost);
        Ok(())
    }
}

fn sequence(prompt: &PromptTokens, response: &Response) -> Sequence {
    Sequence { prompt: prompt.tokens.clone(), response: response.tokens.clone() }
}

/// The K1 estimate of KL(after || before) in nats per response, on responses sampled from the model after tuning.
fn mean_kl(sides: &mut Sides, sequences: &[Sequence]) -> Result<f64> {
    let sequences: Vec<&Sequence> = sequences.iter().collect();
    let sums = |side: ModelView| -> Vec<f64> {
        response_logprobs(side.decoder, side.adapters, &sequences, 1.0).iter().map(|l| l.iter().sum()).collect()
    };
    let after = sums(sides.side(Which::After)?);
    let before = sums(sides.side(Which::Before)?);
    Ok(after.iter().zip(&before).map(|(a, b)| a - b).sum::<f64>() / after.len().max(1) as f64)
}

impl Measured {
    fn new(
        prompts: &[PromptTokens],
        conversations: &[bool],
        responses: Vec<Vec<Response>>,
        lexicons: &[(String, Vader)],
        reward: Option<&RewardModel>,
        end_of_text: &[i64],
    ) -> Self {
        let all: Vec<&Response> = responses.iter().flatten().collect();
        let count = all.len().max(1) as f64;
        let texts: Vec<&str> = all.iter().map(|r| r.text.as_str()).collect();
        let rewards = reward.map(|model| {
            let tokens: Vec<Vec<i64>> = prompts
                .iter()
                .zip(conversations)
                .zip(&responses)
                .flat_map(|((p, &conversation), responses)| {
                    responses.iter().map(move |r| sequence(p, r).text_tokens(r.finish, conversation, end_of_text))
                })
                .collect();
            let mut scores = model.score(&tokens).into_iter();
            responses.iter().map(|r| scores.by_ref().take(r.len()).collect()).collect()
        });
        Self {
            lexicons: lexicons
                .iter()
                .map(|(name, v)| (name.clone(), texts.iter().map(|t| v.compound(t)).sum::<f64>() / count))
                .collect(),
            diversity: diversity(&texts),
            length: all.iter().map(|r| r.tokens.len() as f64).sum::<f64>() / count,
            ended: all.iter().filter(|r| r.finish != Finish::Length).count() as f64 / count,
            rewards,
            texts: responses.into_iter().map(|of_prompt| of_prompt.into_iter().map(|r| r.text).collect()).collect(),
        }
    }

    fn reward(&self) -> Option<f64> {
        let all: Vec<f64> = self.rewards.as_ref()?.iter().flatten().copied().collect();
        Some(all.iter().sum::<f64>() / all.len().max(1) as f64)
    }
}
