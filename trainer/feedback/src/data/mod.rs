//! Prompts, preferences and texts: the records, and how they are read and written.
//!
//! | what | file |
//! |---|---|
//! | prompts, and their validation split | `prompts` |
//! | preference pairs (TRL's columns), and writing them as Parquet | `preference`, `parquet` |
//! | texts for SFT, and texts with a reference label | `texts` |
//! | the records of files and directories, compressed or not | `rows`, `shards`, `unpack`, `file_kind` |
//! | records in JSON Lines, JSON arrays and Parquet | `jsonl`, `parquet_rows` |
//! | permitted content of a record | `fields`, `schema` |
//! | ids that are hashes of what they identify | `id` |
//! | sampled responses that survive a kill | `responses` |
//! | an append-only JSONL file that survives a kill, and its lines | `append_log`, `log_line` |

use serde::{Deserialize, Serialize};

pub mod append_log;
mod fields;
mod file_kind;
pub mod id;
pub(crate) mod jsonl;
mod log_line;
#[cfg(test)]
mod mutated;
pub mod parquet;
mod parquet_rows;
pub mod preference;
pub mod prompts;
pub mod provenance;
pub mod responses;
pub(crate) mod rows;
mod schema;
mod shards;
pub mod texts;
pub mod tokens;
mod unpack;

/// A turn of a conversation.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

/// A text, or a conversation: TRL's standard and conversational forms of `prompt`, `chosen` and `rejected`.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum Content {
    /// Plain text; a response continues it.
    Text(String),
    /// Turns; a response is the next turn of the assistant.
    Messages(Vec<Message>),
}

impl Content {
    /// A response in the same form as this prompt.
    #[must_use]
    pub fn answered_by(&self, response: &str) -> Content {
        match self {
            Self::Text(_) => Content::Text(response.to_owned()),
            Self::Messages(_) => {
                Content::Messages(vec![Message { role: "assistant".into(), content: response.to_owned() }])
            }
        }
    }

    /// The content as text for people and judges: the text itself, or the turns with their roles.
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Messages(turns) => {
                let turns: Vec<String> = turns.iter().map(|m| format!("[{}]\n{}", m.role, m.content)).collect();
                turns.join("\n\n")
            }
        }
    }

    /// The id of this content: equal content has an equal id; a text and a conversation never do.
    pub fn id(&self) -> String {
        match self {
            Self::Text(text) => id::of(&["text", text]),
            Self::Messages(turns) => {
                let parts: Vec<&str> = turns.iter().flat_map(|m| [m.role.as_str(), m.content.as_str()]).collect();
                id::of(&[&["messages"], parts.as_slice()].concat())
            }
        }
    }
}
