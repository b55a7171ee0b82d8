//! What an evaluation is made from, read and checked whole before anything is trained: a fault in what is needed last must
//! not cost the training. What was read is kept, so that what was checked is what is used.

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
use crate::stage::run::input_path;
use crate::{Error, Result};

/// An evaluation that can be made as soon as there is a model.
pub struct Prepared<'a> {
    pub(super) wanted: &'a Wanted,
    pub(super) prompts: Vec<prompts::Prompt>,
    /// Prompts that were left out because an equal one came before.
    pub(super) duplicates: usize,
    /// The same as tokens.
    pub(super) asked: Vec<PromptTokens>,
    /// By name.
    pub(super) lexicons: Vec<(String, Vader)>,
    pub(super) judge: Option<JudgeRuntime>,
    /// A hash of everything that decides the responses beside the model that is tuned.
    pub(super) identity: String,
}

impl<'a> Prepared<'a> {
    /// Reads and checks it. `longest`: tokens of a prompt that the model has room to answer; `trained_on`: ids of the
    /// prompts that training uses.
    ///
    /// A judge's server is not asked: one that is away now may be there when the training ends, and one that is away then
    /// costs no training, as the run continues with what is trained.
    ///
    /// # Errors
    /// `Config` and `Data`, by the field of the spec or by file and line: prompts that cannot be read, are too long or are
    /// trained on, word lists, and a judge's answers, templates or missing key.
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
    let sampling = serde_json::to_string(&wanted.sampling).map_err(|e| Error::Failed(e.to_string()))?;
    let mut parts = vec![digest("policyModel"), digest(ARTIFACT), sampling, wanted.samples_per_prompt.to_string()];
    parts.extend(prompts.iter().map(|p| p.id.clone()));
    Ok(id::of(&parts))
}
