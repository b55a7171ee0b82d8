//! `PreferenceDataset`: prompts -> responses -> pairs -> questions -> replies -> verdicts -> labels -> dataset and audit
//! (RLAIF; Lee et al., 2023, section 3.1, with both orders of every pair and log-odds instead of probabilities averaged).
//!
//! Sampling is slow, and judging is paid for: both write each result to disk before it is used, so that a run that is
//! killed anywhere and restarted produces the same bytes. Everything else takes moments and is recomputed.

use std::path::{Path, PathBuf};

use plumbline_crds::conditions::Reason;
use plumbline_crds::preference_dataset::{Generator, PreferenceDatasetSpec};
use plumbline_crds::run::{RunDocument, StageResult};
use plumbline_crds::{Kind, Spec};
use plumbline_feedback::data::preference::{self, Preference, Split};
use plumbline_feedback::data::prompts::{self, Prompt};
use plumbline_feedback::data::responses::{self, Sampled, Sampler};
use plumbline_feedback::data::{id, parquet, tokens};
use plumbline_feedback::files;
use plumbline_feedback::judge::audit::audit_panel;
use plumbline_feedback::judge::journal::copy_sorted;
use plumbline_feedback::judge::pairs::{Chosen, choose};
use plumbline_feedback::judge::{
    Comparison, JudgeOptions, JudgeRuntime, Judgements, PanelJudgements, dataset, judge, refuse_alike, sections,
    summary,
};
use plumbline_feedback::report::{Progress, Report};
use plumbline_feedback::shutdown;
use plumbline_feedback::store::work_dir_sync::WorkDirSync;
use plumbline_feedback::text::tokenizer::{Tokenizer, template_date};

use describe::{counts, describe, headline};

use super::in_status;
use super::inputs::input_path;
use super::run::publish;
use crate::generate::{PromptTokens, generate, longest_prompt};
use crate::load::hugging_face::ModelFolder;
use crate::model::decoder::Decoder;
use crate::model::linear::Adapters;
use crate::train::clock::Clock;
use crate::{Error, Result, device};

mod describe;

/// Builds the dataset of a run document.
pub fn run(document: &RunDocument, sync: &WorkDirSync) -> Result<StageResult> {
    let generator = generator(spec(document)?)?;
    let path = input_path(document, "generator.model")?;
    let (tokenizer, folder) = (Tokenizer::load(&path)?, ModelFolder::open(&path)?);
    let longest = longest_prompt(&folder.config);
    let asked = |prompts: &[Prompt]| asked(&tokenizer, longest, prompts);
    // Loaded when the first response is missing. Its directory is then closed, as mapped files count as memory.
    let (mut folder, mut model): (_, Option<Decoder>) = (Some(folder), None);
    let mut sampler = |prompts: &[Prompt], progress: &mut dyn FnMut(usize) -> Result<()>| {
        if let Some(folder) = folder.take() {
            model = Some(folder.decoder(generator.precision, device::of(document.resource.spec.compute())?)?);
        }
        let Some(decoder) = &model else { return Ok(Vec::new()) };
        sample(decoder, &tokenizer, generator, &asked(prompts)?, progress)
    };
    // Prompts that do not fit must be detected before any are sampled.
    make(document, sync, &|prompts| asked(prompts).map(drop), &mut sampler)
}

/// As [`run`], with responses from `sampler` instead of the generator's model.
pub fn run_with(document: &RunDocument, sampler: &mut Sampler<'_>) -> Result<StageResult> {
    make(document, &WorkDirSync::off(), &|_| Ok(()), sampler)
}

#[allow(clippy::too_many_lines, reason = "the stage reads as its arrows, one after the other")]
fn make(
    document: &RunDocument,
    sync: &WorkDirSync,
    check: &dyn Fn(&[Prompt]) -> Result<()>,
    sampler: &mut Sampler<'_>,
) -> Result<StageResult> {
    let spec = spec(document)?;
    let generator = generator(spec)?;
    let folders = Folders::new(document);
    let mut progress = Progress::new(&folders.work, sync)?;
    let mut clock = Clock::open(&folders.work)?;
    clock.start("label")?;

    let found = prompts::read(&spec.prompts, document.input("prompts").map(|i| Path::new(&i.path)), "spec.prompts")?;
    let prompts = &found.prompts;
    let judges = judges(spec, document)?;
    check(prompts)?;
    check_gates(spec, generator, prompts.len() as i64)?;

    progress.stage("Generating", prompts.len() as i64 * generator.responses_per_prompt);
    let identity = generator_identity(document, generator);
    let responses = responses::complete(&folders.journal, &identity, prompts, sampler, &mut |done| {
        progress.advance(done as i64);
        clock.tick()?;
        go_on()
    })?;

    let texts: Vec<Vec<String>> =
        responses.iter().map(|of_prompt| of_prompt.iter().map(|r| r.text.clone()).collect()).collect();
    let chosen: Vec<Chosen> =
        prompts.iter().zip(&texts).map(|(p, r)| choose(&p.id, r, &spec.pairs, generator.sampling.seed)).collect();
    let items = comparisons(prompts, &texts, &chosen);

    let mut begun = false;
    let judged = judge(
        &judges,
        &items,
        JudgeOptions {
            journal: &folders.journal,
            order: &spec.order,
            budget: &spec.budget,
            progress: &mut |done, questions, cost| {
                if !std::mem::replace(&mut begun, true) {
                    progress.stage("Judging", questions as i64);
                }
                progress.cost(cost);
                progress.advance(done as i64);
                clock.tick()?;
                go_on()
            },
        },
    )?;

    let names: Vec<&str> = judges.iter().map(|judge| judge.spec.name.as_str()).collect();
    let audit = audit_panel(&names, &judged, &items);
    let records = dataset::records(&judges, &judged, &items, spec.pairs.min_confidence);
    let parts = Split::ALL.map(|split| {
        let wanted = |r: &&Preference| {
            prompts::is_validation(&r.prompt_id, spec.prompts.validation_fraction) == (split == Split::Validation)
        };
        (split, records.iter().filter(wanted).cloned().collect::<Vec<_>>())
    });
    let counts = counts(&found, &responses, &chosen, &judged, &audit, &parts);

    let title = headline(&audit, &counts);
    let mut report = Report::new(Kind::PreferenceDataset, &document.resource.metadata.name, title);
    describe(&mut report, document, generator, (&judges, &judged), &counts);
    if let Some(model) = document.input("generator.model") {
        report.template_date(template_date(Path::new(&model.path))?);
    }
    report.card.splits = parts.iter().filter(|(_, r)| !r.is_empty()).map(|(s, _)| s.name().to_owned()).collect();
    let splits = [parts[0].1.len(), parts[1].1.len()];
    report.sections.extend(sections::sections(&audit, &judged, &records, splits));
    for (name, value) in counts.iter().map(|(n, v)| (n, *v as f64)) {
        report.number(name, value);
    }
    let (bias, agreement) = (summary::bias(&audit), summary::agreement(&audit));
    for (name, value) in bias.iter().chain(&agreement).chain(&summary::of_each_judge(&audit)) {
        report.number(name, value.parse().unwrap_or(f64::NAN));
    }
    let seconds = clock.seconds()?;
    report.timings(&seconds);
    write(&folders, &parts, (prompts, &responses), &judged, &report)?;

    let failed = dataset::failed_gates(&spec.gates, &audit, records.len() as i64);
    if !failed.is_empty() {
        return Err(Error::Gate(format!("{}. The report is in staging/ of the work directory", failed.join("; "))));
    }
    if records.is_empty() {
        return Err(Error::Data(summary::nothing_labelled(&audit, &judged, &counts)));
    }
    let artifact = publish(document, &folders.staging)?;
    progress.metric("pairs", records.len() as f64);
    progress.finish();
    Ok(StageResult {
        artifact: Some(artifact),
        metrics: progress.metrics().to_vec(),
        counts: in_status(counts),
        bias: in_status(bias),
        agreement: in_status(agreement),
        cost: Some(judged.cost),
        seconds,
        ..StageResult::new(Reason::Completed, report.title)
    })
}

/// The directories that a run reads and writes.
struct Folders {
    work: PathBuf,
    journal: PathBuf,
    staging: PathBuf,
}

impl Folders {
    fn new(document: &RunDocument) -> Self {
        let work = PathBuf::from(&document.work);
        Self { journal: work.join("journal"), staging: work.join("staging"), work }
    }
}

fn spec(document: &RunDocument) -> Result<&PreferenceDatasetSpec> {
    match &document.resource.spec {
        Spec::PreferenceDataset(spec) => Ok(spec),
        other => Err(Error::Config(format!("expected a PreferenceDataset to label, found a {}", other.kind()))),
    }
}

fn generator(spec: &PreferenceDatasetSpec) -> Result<&Generator> {
    let missing = || Error::Config("spec.generator: expected the model that generates the responses".into());
    spec.generator.as_ref().filter(|g| g.model.is_some()).ok_or_else(missing)
}

/// The judges of the spec, in order.
fn judges(spec: &PreferenceDatasetSpec, document: &RunDocument) -> Result<Vec<JudgeRuntime>> {
    let resolve = |(i, judge)| JudgeRuntime::resolve(judge, &format!("judges[{i}]"), document);
    let judges = spec.judges.iter().enumerate().map(resolve).collect::<Result<Vec<_>>>()?;
    refuse_alike(&judges, &spec.order)?;
    Ok(judges)
}

/// Returns `Interrupted` if the process was asked to stop; called between units of work.
fn go_on() -> Result<()> {
    if shutdown::requested() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Rejects gates that cannot be met whatever the judges answer.
fn check_gates(spec: &PreferenceDatasetSpec, generator: &Generator, prompts: i64) -> Result<()> {
    let of_prompt = generator.responses_per_prompt * (generator.responses_per_prompt - 1) / 2;
    let most = prompts * of_prompt.min(spec.pairs.per_prompt);
    match spec.gates.min_pairs.filter(|&least| least > most) {
        Some(least) => Err(Error::Config(format!(
            "spec.gates.minPairs requires {least} pairs, but {prompts} prompts yield at most {most}; lower it, or \
             raise spec.pairs.perPrompt or the number of prompts"
        ))),
        None => Ok(()),
    }
}

/// Tokenises prompts; each must leave room for a response.
fn asked(tokenizer: &Tokenizer, longest: usize, prompts: &[Prompt]) -> Result<Vec<PromptTokens>> {
    let of_prompt = |p: &Prompt| {
        let tokens = tokens::prompt_within(tokenizer, &p.content, longest, "spec.prompts")?;
        Ok(PromptTokens { key: id::key(&[&p.id]), tokens })
    };
    prompts.iter().map(of_prompt).collect()
}

fn sample(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    generator: &Generator,
    asked: &[PromptTokens],
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<Sampled>>> {
    let samples = generator.responses_per_prompt as usize;
    let all = generate(decoder, Adapters::Off, tokenizer, asked, samples, &generator.sampling, progress)?;
    Ok(all
        .into_iter()
        .map(|of_prompt| of_prompt.into_iter().map(|r| Sampled::new(r.text, r.finish)).collect())
        .collect())
}

/// Identifies everything besides the prompts that determines the responses.
fn generator_identity(document: &RunDocument, generator: &Generator) -> String {
    let digest = document.input("generator.model").map_or("", |i| i.digest.as_str());
    let (samples, precision) = (generator.responses_per_prompt, generator.precision);
    let sampling = serde_json::to_string(&generator.sampling).unwrap_or_default();
    id::of(&[digest, &samples.to_string(), &format!("{precision:?}"), &sampling])
}

fn comparisons<'a>(prompts: &'a [Prompt], texts: &'a [Vec<String>], chosen: &[Chosen]) -> Vec<Comparison<'a>> {
    let of_prompt = |((prompt, texts), chosen): ((&'a Prompt, &'a Vec<String>), &Chosen)| {
        chosen
            .pairs
            .iter()
            .map(|(a, b)| Comparison { prompt: &prompt.content, response_a: &texts[*a], response_b: &texts[*b] })
            .collect::<Vec<_>>()
    };
    prompts.iter().zip(texts).zip(chosen).flat_map(of_prompt).collect()
}

/// Writes the dataset into an empty staging directory.
fn write(
    folders: &Folders,
    parts: &[(Split, Vec<Preference>); 2],
    (prompts, responses): (&[Prompt], &[Vec<Sampled>]),
    judged: &PanelJudgements,
    report: &Report,
) -> Result<()> {
    let staging = &folders.staging;
    let (data, journal) = (staging.join("data"), staging.join("journal"));
    for folder in [staging, &data, &journal] {
        files::fresh_folder(folder)?;
    }
    for (split, records) in parts.iter().filter(|(_, records)| !records.is_empty()) {
        let stem = split.stem();
        preference::write_file(&staging.join(format!("{stem}.jsonl")), records)?;
        parquet::write_file(&staging.join(format!("{stem}.parquet")), records)?;
    }
    copy_sorted(&folders.journal, &journal, judged.judges.iter().flat_map(Judgements::replies))?;
    responses::write_file(&journal.join(responses::RESPONSES), prompts, responses)?;
    report.write(staging)
}
