//! The inputs of an evaluation, read and checked completely before training: a fault in an input that is only needed at
//! the end must not cost the training. The checked values are kept in memory and used later.

use std::collections::HashSet;
use std::path::Path;

use plumbline_crds::policy_tuning::Evaluation as Wanted;
use plumbline_crds::run::RunDocument;
use plumbline_feedback::data::{id, prompts, tokens};
use plumbline_feedback::judge::JudgeRuntime;
use plumbline_feedback::measure::Vader;
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::generate::PromptTokens;
use crate::stage::evaluate::ARTIFACT;
use crate::stage::inputs::input_path;
use crate::{Error, Result};

/// The checked inputs of an evaluation that can start as soon as the model is trained.
pub struct Prepared<'a> {
    pub(super) wanted: &'a Wanted,
    pub(super) prompts: Vec<prompts::Prompt>,
    /// Prompts that were skipped as duplicates of earlier ones.
    pub(super) duplicates: usize,
    /// The prompts as tokens.
    pub(super) asked: Vec<PromptTokens>,
    /// Lexicons with their names.
    pub(super) lexicons: Vec<(String, Vader)>,
    pub(super) judge: Option<JudgeRuntime>,
    /// Hash of everything that determines the responses, except the tuned model.
    pub(super) identity: String,
}

impl<'a> Prepared<'a> {
    /// Reads and checks the inputs. `longest`: maximum tokens of a prompt that leaves room for a response;
    /// `trained_on`: ids of the prompts used in training.
    ///
    /// The judge's server is not contacted: it may be down now and up when training ends; and if it is down then,
    /// nothing is lost, as the run resumes after training.
    ///
    /// `Config` and `Data`, with the spec's field or the file and line: for prompts that are unreadable, too long or
    /// used in training, for invalid word lists, and for a judge's answers, templates or missing key.
    pub fn read(
        run: &RunDocument,
        wanted: &'a Wanted,
        tokenizer: &Tokenizer,
        longest: usize,
        trained_on: &[String],
    ) -> Result<Self> {
        let path = run.input("evaluation.prompts").map(|i| Path::new(&i.path));
        let prompts::Prompts { prompts, duplicates } = prompts::read(&wanted.prompts, path, "spec.evaluation.prompts")?;
        let known: HashSet<&String> = trained_on.iter().collect();
        let seen = prompts.iter().filter(|p| known.contains(&p.id)).count();
        if seen > 0 {
            return Err(Error::Config(format!(
                "spec.evaluation.prompts: {seen} of {} prompts are training prompts too; evaluate on prompts that \
                 training does not use",
                prompts.len()
            )));
        }
        let asked = prompts
            .iter()
            .map(|p| {
                let tokens = tokens::prompt_within(tokenizer, &p.content, longest, "spec.evaluation.prompts")?;
                Ok(PromptTokens { key: id::key(&[&p.id]), tokens })
            })
            .collect::<Result<Vec<_>>>()?;
        let lexicon = |(i, l): (usize, &plumbline_crds::policy_tuning::Lexicon)| {
            Ok((l.name.clone(), Vader::load(&input_path(run, &format!("evaluation.lexicons[{i}]"))?)?))
        };
        let lexicons = wanted.lexicons.iter().enumerate().map(lexicon).collect::<Result<Vec<_>>>()?;
        let judge = wanted.judge.as_ref().map(|j| JudgeRuntime::resolve(j, "evaluation.judge", run)).transpose()?;
        let identity = identity(run, wanted, &prompts)?;
        Ok(Self { wanted, prompts, duplicates, asked, lexicons, judge, identity })
    }
}

fn identity(run: &RunDocument, wanted: &Wanted, prompts: &[prompts::Prompt]) -> Result<String> {
    let digest = |role: &str| run.input(role).map_or(String::new(), |i| i.digest.clone());
    let sampling =
        serde_json::to_string(&wanted.sampling).map_err(|e| Error::Failed(format!("spec.evaluation.sampling: {e}")))?;
    let mut parts = vec![digest("policyModel"), digest(ARTIFACT), sampling, wanted.samples_per_prompt.to_string()];
    parts.extend(prompts.iter().map(|p| p.id.clone()));
    Ok(id::of(&parts))
}
