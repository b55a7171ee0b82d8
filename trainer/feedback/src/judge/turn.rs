//! A question, and what is sent in each of its turns. Computes only.
//!
//! Most judges answer in one turn. One that reasons in a call of its own has two: the second repeats the question and the
//! reasons, and asks for the verdict. Each turn is a request with an id, a place in the journal and a price of its own; the
//! verdict is read from the reply to the last.

use serde_json::{Value, json};

/// A question, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Template and the hash of its text.
    pub template: String,
    /// System message.
    pub system: Option<String>,
    /// User message, or the text to continue.
    pub text: String,
    /// What the question is about, for readers of the journal: a pair and the response shown first, or a response.
    pub about: String,
}

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

impl Turn {
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
