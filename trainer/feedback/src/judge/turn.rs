//! A question, and the requests of its turns. Computes only.
//!
//! Most judges answer in one turn. A judge that reasons in a separate call has two: the second repeats the question and
//! the reasons, and asks for the verdict. Each turn is a request with its own id, journal entry and cost; the verdict
//! is read from the reply to the last one.

use serde_json::{Value, json};

/// A question, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Name of the template with the hash of its text.
    pub template: String,
    /// System message.
    pub system: Option<String>,
    /// User message, or the text to continue.
    pub text: String,
    /// The subject of the question, for readers of the journal: a pair and the response shown first, or a response.
    pub about: String,
}

/// The content of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// System message.
    pub system: Option<String>,
    /// Alternating messages of user and judge; the last one is the user's.
    pub texts: Vec<String>,
    /// Maximum tokens of the reply.
    pub max_tokens: i64,
    /// Whether log-probabilities are requested.
    pub log_probs: bool,
}

impl Turn {
    /// Bytes of text in the request.
    pub fn bytes(&self) -> usize {
        self.system.as_ref().map_or(0, String::len) + self.texts.iter().map(String::len).sum::<usize>()
    }

    /// The messages of a chat request.
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
