//! The turns of a question: what is sent next, given the replies so far. Computes only.
//!
//! Most judges answer in one turn. One that reasons in a call of its own has two: the second repeats the question and the
//! reasons, and asks for the verdict. Each turn is a request with an id, a place in the journal and a price of its own; the
//! verdict is read from the reply to the last.

use plumbline_crds::judge::{JudgeApi, LabelSource};
use serde_json::{Value, json};

use super::dialect::Dialect;
use super::prompt::JudgePrompt;
use super::question::Question;
use super::wire::{self, Reply};
use crate::data::id;

/// What is sent in a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// System message.
    pub system: Option<String>,
    /// What user and judge say alternately; the last is the user's.
    pub texts: Vec<String>,
    /// Most tokens of the reply.
    pub max_tokens: i64,
    /// Whether log-probabilities are asked for.
    pub log_probs: bool,
}

/// The next turn of a question after some replies; `None` when nothing is left to ask.
pub type Turns = fn(&JudgePrompt, &Question, &[Reply]) -> Option<Turn>;

/// The one turn of a question whose verdict is asked for at once.
pub(super) fn one(prompt: &JudgePrompt, question: &Question, replies: &[Reply]) -> Option<Turn> {
    replies.is_empty().then(|| Turn {
        system: question.system.clone(),
        texts: vec![question.text.clone()],
        max_tokens: prompt.max_tokens(),
        log_probs: prompt.label == LabelSource::LogProbs,
    })
}

impl Turn {
    /// The id of its request to a judge: a hash of who is asked and of everything that is sent. It does not depend on the
    /// dialect, so that a reply is bought once.
    pub fn id(&self, identity: &str, api: JudgeApi) -> String {
        id::of(&[identity, &wire::request(self, api, Dialect::default(), "").to_string()])
    }

    /// Bytes of text that are sent.
    pub fn bytes(&self) -> usize {
        self.system.as_ref().map_or(0, String::len) + self.texts.iter().map(String::len).sum::<usize>()
    }

    /// The messages of a chat.
    pub(super) fn messages(&self) -> Value {
        let system = self.system.iter().map(|s| json!({"role": "system", "content": s}));
        let speakers = ["user", "assistant"].into_iter().cycle();
        system
            .chain(self.texts.iter().zip(speakers).map(|(text, role)| json!({"role": role, "content": text})))
            .collect()
    }

    /// The text to continue.
    pub(super) fn text(&self) -> String {
        let system = self.system.iter().map(|s| format!("{s}\n\n"));
        system.chain(self.texts.iter().cloned()).collect()
    }
}
