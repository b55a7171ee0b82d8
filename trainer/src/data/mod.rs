//! Prompts, preferences and texts: the records and how they are read and written.

use serde::{Deserialize, Serialize};

/// A turn of a conversation.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Text.
    pub content: String,
}
