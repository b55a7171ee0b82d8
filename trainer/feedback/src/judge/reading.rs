//! Reads the verdict of a reply: from its finish reason, and then from its log-probabilities or its text. Computes
//! only.

use plumbline_crds::judge::{JudgeMode, LabelSource};

use super::log_probs;
use super::prompt::JudgePrompt;
use super::reasoning::ONLY_REASONING;
use super::verdict::Verdict;
use super::verdict_text::read_text;
use super::wire::{Choice, Reply};

/// Reads the verdict of a reply.
pub fn read(prompt: &JudgePrompt, reply: &Reply) -> Verdict {
    reply.choices.first().map_or(Verdict::Unparsed("the reply is empty"), |choice| read_choice(prompt, choice))
}

fn read_choice(prompt: &JudgePrompt, choice: &Choice) -> Verdict {
    let finish = choice.finish.as_deref().unwrap_or_default();
    match finish {
        "content_filter" => return Verdict::Filtered,
        "refusal" => return Verdict::Refused,
        _ if choice.refusal.is_some() => return Verdict::Refused,
        _ => {}
    }
    if prompt.label == LabelSource::LogProbs {
        // A reply of one token always ends with `length`; its probabilities are complete nevertheless.
        return log_probs::read(choice, &prompt.answers);
    }
    if matches!(finish, "length" | "max_tokens") {
        return Verdict::Truncated;
    }
    if choice.text.trim().is_empty() && choice.reasoning.is_some() {
        return Verdict::Unparsed(ONLY_REASONING);
    }
    read_text(&choice.text, &prompt.answers, prompt.mode == JudgeMode::Pairwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finish_reason_takes_precedence_over_the_text() {
        let judge =
            serde_json::json!({"name": "j", "endpoint": {"url": "http://x", "model": "m"}, "labelSource": "Verdict"});
        let prompt = JudgePrompt::new(&serde_json::from_value(judge).unwrap(), "spec.judges[0]").unwrap();
        let ended = |finish: &str| Choice { text: "A".into(), finish: Some(finish.into()), ..Choice::default() };
        assert_eq!(read_choice(&prompt, &ended("stop")), Verdict::First(None));
        assert_eq!(read_choice(&prompt, &ended("length")), Verdict::Truncated);
        assert_eq!(read_choice(&prompt, &ended("content_filter")), Verdict::Filtered);
        assert_eq!(read_choice(&prompt, &Choice { refusal: Some("no".into()), ..ended("stop") }), Verdict::Refused);
    }
}
