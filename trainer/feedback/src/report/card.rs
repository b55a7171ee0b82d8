//! The dataset or model card, `README.md` (computes): front matter in Hugging Face's format, and what a reader needs to
//! know before using the artifact. It states no licence, because the terms of the base model and of the judge apply,
//! which are not known here.

use plumbline_crds::Kind;
use serde::Serialize;

use super::format::shown;
use super::{Number, Report, Section};
use crate::printable::is_unprintable;
use crate::{Error, Result};

/// The front matter; the names are those of the Hub's model and dataset card metadata.
#[derive(Serialize)]
struct FrontMatter<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    base_model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_model_relation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    library_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline_tag: Option<&'a str>,
    tags: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    configs: Vec<Config>,
}

#[derive(Serialize)]
struct Config {
    config_name: &'static str,
    data_files: Vec<DataFiles>,
}

#[derive(Serialize)]
struct DataFiles {
    split: String,
    path: String,
}

/// The card.
pub fn card(report: &Report) -> Result<String> {
    let front = serde_yaml::to_string(&front_matter(report))
        .map_err(|e| Error::Failed(format!("the card's front matter cannot be written: {e}")))?;
    let mut parts = vec![format!("---\n{front}---\n"), format!("# {}\n", line(&report.title)), origin(report)];
    parts.extend(chapters(report, 2));
    parts.push(usage(report));
    for input in report.chain().into_iter().rev().filter(|r| !std::ptr::eq(*r, report)) {
        parts.push(format!(
            "## Made from: {} {}\n\n{}\n",
            input.kind_in_words(),
            line(&input.name),
            line(&input.title)
        ));
        parts.extend(chapters(input, 3));
    }
    parts.push("Curves and samples are in `report.html`, the numbers for programs in `summary.json`.\n".into());
    parts.retain(|p| !p.is_empty());
    Ok(parts.join("\n"))
}

fn front_matter(report: &Report) -> FrontMatter<'_> {
    let dataset = report.kind == Kind::PreferenceDataset;
    let kind_tags: &[&str] = match report.kind {
        Kind::PreferenceDataset => &["plumbline", "rlaif", "preference"],
        Kind::RewardModel => &["plumbline", "rlaif", "reward-model"],
        Kind::PolicyTuning => &["plumbline", "rlaif"],
    };
    let mut tags = kind_tags.to_vec();
    for tag in &report.card.tags {
        if !tags.contains(&tag.as_str()) {
            tags.push(tag);
        }
    }
    let base_model = report.card.base_model.as_deref().and_then(hub_name).filter(|_| !dataset);
    let adapter = report.card.adapter;
    let files = |split: &String| DataFiles { split: split.clone(), path: format!("data/{split}-*.jsonl") };
    let data_files: Vec<DataFiles> = report.card.splits.iter().map(files).collect();
    FrontMatter {
        base_model,
        base_model_relation: base_model.map(|_| if adapter { "adapter" } else { "finetune" }),
        library_name: (!dataset).then_some(if adapter { "peft" } else { "transformers" }),
        pipeline_tag: match report.kind {
            Kind::PreferenceDataset => None,
            Kind::RewardModel => Some("text-classification"),
            Kind::PolicyTuning => Some("text-generation"),
        },
        tags,
        configs: if data_files.is_empty() { Vec::new() } else { vec![Config { config_name: "default", data_files }] },
    }
}

/// `org/name` of `hf://org/name`, without a revision; `None` for other locations, which are meaningless to other users.
fn hub_name(source: &str) -> Option<&str> {
    let name = source.strip_prefix("hf://")?;
    let name = name.split('@').next().unwrap_or(name).trim_end_matches('/');
    (name.split('/').count() == 2 && !name.contains(char::is_whitespace)).then_some(name)
}

fn origin(report: &Report) -> String {
    let rows: Vec<String> =
        report.facts.iter().map(|f| format!("| {} | {} |\n", line(&f.label), line(&f.text))).collect();
    if rows.is_empty() { String::new() } else { format!("| | |\n|---|---|\n{}", rows.concat()) }
}

/// The sections that read well as plain text: notices, texts and numbers.
fn chapters(report: &Report, level: usize) -> Vec<String> {
    let heading = "#".repeat(level);
    let chapter = |section: &Section| match section {
        Section::Notice { title, text } => {
            let quoted: Vec<String> = text.lines().map(|l| format!("> {}\n", escaped(l))).collect();
            Some(format!("> **{}**\n>\n{}", line(title), quoted.concat()))
        }
        Section::Text { title, text } => {
            let lines: Vec<String> = text.lines().map(escaped).collect();
            Some(format!("{heading} {}\n\n{}\n", line(title), lines.join("\n")))
        }
        Section::Numbers { title, rows } => Some(format!("{heading} {}\n\n{}", line(title), numbers(rows))),
        _ => None,
    };
    report.sections.iter().filter_map(chapter).collect()
}

fn numbers(rows: &[Number]) -> String {
    let row = |n: &Number| {
        let interval = n
            .interval
            .map_or_else(String::new, |(low, high)| format!("{} to {}", shown(low, n.unit), shown(high, n.unit)));
        format!("| {} | {} | {interval} | {} |\n", line(&n.label), shown(n.value, n.unit), line(&n.note))
    };
    let body = rows.iter().map(row).collect::<Vec<_>>().concat();
    format!("| measure | value | 95% interval | measured on |\n|---|---:|---|---|\n{body}")
}

fn usage(report: &Report) -> String {
    let code = match report.kind {
        Kind::PreferenceDataset => {
            "from datasets import load_dataset\n\ndataset = load_dataset(\"PATH_TO_THIS_DIRECTORY\")"
        }
        Kind::RewardModel => {
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\nmodel = \
             AutoModelForSequenceClassification.from_pretrained(\"PATH_TO_THIS_DIRECTORY\")\ntokenizer = \
             AutoTokenizer.from_pretrained(\"PATH_TO_THIS_DIRECTORY\")"
        }
        Kind::PolicyTuning if report.card.adapter => {
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\nbase = \
             AutoModelForCausalLM.from_pretrained(\"PATH_TO_THE_BASE_MODEL\")\nmodel = \
             PeftModel.from_pretrained(base, \"PATH_TO_THIS_DIRECTORY\")\ntokenizer = \
             AutoTokenizer.from_pretrained(\"PATH_TO_THIS_DIRECTORY\")"
        }
        Kind::PolicyTuning => {
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\nmodel = \
             AutoModelForCausalLM.from_pretrained(\"PATH_TO_THIS_DIRECTORY\")\ntokenizer = \
             AutoTokenizer.from_pretrained(\"PATH_TO_THIS_DIRECTORY\")"
        }
    };
    format!("## Use\n\n```python\n{code}\n```\n")
}

/// Text on one line of Markdown, in a table or a heading.
fn line(text: &str) -> String {
    escaped(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Escapes characters that have a meaning in Markdown or HTML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' => {
                out.push('\\');
                out.push(c);
            }
            c if is_unprintable(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::chain;
    use super::*;

    fn front(report: &Report) -> serde_yaml::Value {
        let card = card(report).unwrap();
        serde_yaml::from_str(card.strip_prefix("---\n").unwrap().split("\n---\n").next().unwrap()).unwrap()
    }

    #[test]
    fn the_front_matter_is_valid_for_the_hub_and_states_no_licence() {
        let mut policy = chain("text");
        let yaml = front(&policy);
        assert_eq!(yaml["base_model"], "org/sft");
        assert_eq!(yaml["base_model_relation"], "finetune");
        assert_eq!(yaml["pipeline_tag"], "text-generation");
        assert!(yaml["tags"].as_sequence().unwrap().contains(&"ppo".into()));
        assert!(yaml.get("license").is_none());
        policy.card.adapter = true;
        assert_eq!(
            (&front(&policy)["library_name"], &front(&policy)["base_model_relation"]),
            (&"peft".into(), &"adapter".into())
        );
        let dataset = front(&policy.upstream[0].upstream[0]);
        assert_eq!(dataset["configs"][0]["data_files"][1]["path"], "data/validation-*.jsonl");
        assert!(dataset.get("base_model").is_none() && dataset.get("library_name").is_none());
    }

    #[test]
    fn a_base_model_on_this_machine_does_not_become_a_hub_name() {
        for source in ["file:///models/sft", "/models/sft", "s3://bucket/sft", "hf://sft", "hf://a/b/c", "hf://a/b c"] {
            assert_eq!(hub_name(source), None, "{source}");
        }
        assert_eq!(hub_name("hf://org/sft@v1"), Some("org/sft"));
    }

    #[test]
    fn the_card_states_inputs_judges_and_results() {
        let card = card(&chain("text")).unwrap();
        for expected in [
            "| Judged by | primary |",
            "> **Judge and policy share weights**",
            "| win rate | 63.2% | 58.0% to 68.1% |",
            "## Made from: Reward model rm",
            "## Made from: Preference dataset data",
            "from\\_pretrained".replace("\\_", "_").as_str(),
        ] {
            assert!(card.contains(expected), "{expected} in\n{card}");
        }
    }

    #[test]
    fn hostile_text_breaks_neither_tables_nor_markup() {
        let card = card(&chain("a | b\n\n# c <script> `d` ---")).unwrap();
        assert!(!card.contains("<script>") && !card.contains("\n# c"), "{card}");
        let row = card.lines().find(|l| l.starts_with("| Judged by")).unwrap();
        assert_eq!(row.replace("\\|", "").matches('|').count(), 3, "{row}");
    }
}
