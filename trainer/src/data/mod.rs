//! Prompts, preferences and texts: the records and how they are read and written.
//!
//! | what | file |
//! |---|---|
//! | prompts, and which of them are kept for validation | `prompts` |
//! | preference pairs as JSONL (TRL's columns), and as Parquet | `preference`, `parquet` |
//! | texts for SFT, texts with a reference label | `texts` |
//! | ids that are a hash of what they name | `id` |
//! | sampled responses that survive a kill | `responses` |
//! | an append-only JSONL file that survives a kill | `append_log` |

use serde::{Deserialize, Serialize};

pub mod append_log;
pub mod id;
pub(crate) mod jsonl;
pub mod parquet;
pub mod preference;
pub mod prompts;
pub mod responses;
pub mod texts;
pub mod tokens;

/// A turn of a conversation.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Text.
    pub content: String,
}

/// A text, or a conversation: TRL's standard and conversational forms of `prompt`, `chosen` and `rejected`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum Content {
    /// Plain text; a response continues it.
    Text(String),
    /// Turns; a response is the next turn of the assistant.
    Messages(Vec<Message>),
}

impl Content {
    /// A response in the form that goes with this prompt.
    #[must_use]
    pub fn answered_by(&self, response: &str) -> Content {
        match self {
            Self::Text(_) => Content::Text(response.to_owned()),
            Self::Messages(_) => {
                Content::Messages(vec![Message { role: "assistant".into(), content: response.to_owned() }])
            }
        }
    }

    /// The text for people and judges: the text itself, or the turns with their roles.
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Messages(turns) => {
                let turns: Vec<String> = turns.iter().map(|m| format!("[{}]\n{}", m.role, m.content)).collect();
                turns.join("\n\n")
            }
        }
    }

    /// The id of this content: equal content has an equal id, text and conversation never do.
    pub fn id(&self) -> String {
        match self {
            Self::Text(text) => id::of(&["text", text]),
            Self::Messages(turns) => {
                let parts: Vec<&str> = turns.iter().flat_map(|m| [m.role.as_str(), m.content.as_str()]).collect();
                id::of(&[&["messages"], parts.as_slice()].concat())
            }
        }
    }

    /// Checks a conversation: there are turns, each has a known role.
    fn check(&self, field: &str) -> Result<(), String> {
        let Self::Messages(turns) = self else { return Ok(()) };
        if turns.is_empty() {
            return Err(format!("`{field}` has no turn; a conversation needs at least one"));
        }
        match turns.iter().find(|m| !matches!(m.role.as_str(), "system" | "user" | "assistant")) {
            Some(m) => Err(format!("`{field}` has a turn with role `{}`; expected system, user or assistant", m.role)),
            None => Ok(()),
        }
    }
}
