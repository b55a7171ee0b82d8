//! The tokenizer of a Hugging Face directory (`tokenizer.json` and the files next to it).
//!
//! Text is encoded as in transformers: a text by itself gets the tokens that the file's post-processor adds around it
//! (such as a leading `<s>`), and a conversation rendered by the model's template gets none, because the template
//! writes them. A prompt gets the tokens before it but not those after it, which would end it.

use std::collections::BTreeMap;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::civil::DateTime;
use plumbline_confined::{Confinement, Exceeded, Limits};
use tokenizers::{DecoderWrapper, Encoding};

use super::chat::Chat;
use super::chat_template::{ChatTemplate, TemplateError};
use super::control_tokens::ControlTokens;
use super::incremental::IncrementalDecoder;
use super::token_bytes::{byte_level_bytes, byte_token};
use super::tokenizer_config::TokenizerConfig;
use super::{chat_template, tokenizer_rules};
use crate::clock;
use crate::data::Message;
use crate::{Error, Result};

/// Text to token ids and back, and conversations to text.
pub struct Tokenizer {
    folder: PathBuf,
    pub(super) inner: Arc<tokenizers::Tokenizer>,
    confinement: Confinement,
    /// The same without control tokens, which are ordinary text.
    plain: OnceLock<Arc<tokenizers::Tokenizer>>,
    /// The tokens that the post-processor adds before and after a text.
    around: [Vec<i64>; 2],
    /// Whether a text after a control token is tokenised as at the very start, for tokenizers that insert a leading
    /// space.
    pub(super) restarts: bool,
    pub(super) control_tokens: ControlTokens,
    eos_ids: Vec<i64>,
    special_tokens: BTreeMap<String, String>,
    chat_template: Option<ChatTemplate>,
    byte_level: bool,
    /// Number of tokens of the model in the same directory, if there is one.
    vocabulary: Option<i64>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, if present, `tokenizer_config.json`, `special_tokens_map.json`,
    /// `chat_template.jinja`, `config.json` and `generation_config.json` of a directory.
    ///
    /// # Errors
    /// [`Error::Data`] with the file's name if one is missing or broken, or cannot be used to tokenise text.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|e| Error::Data(unreadable(folder, &path, &e)))?;
        let config = TokenizerConfig::read(folder)?;
        let chat_template = config
            .chat_template
            .map(|source| ChatTemplate::compile(&source, config.special_tokens.clone()))
            .transpose()
            .map_err(|e| error_of(e.may_pass(), format!("{}: {e}", folder.display())))?;
        let wrong = |why: String| Error::Data(format!("{}: {why}", path.display()));
        tokenizer_rules::check(&bytes).map_err(wrong)?;
        let size = bytes.len();
        let confinement = Confinement::default();
        let opened = confinement.run(limits(size), move || open(&bytes));
        let opened = opened.map_err(|e| error_of(may_pass(&e), format!("{}: not a tokenizer: {e}", path.display())))?;
        let Opened { tokenizer: inner, around, restarts } = opened.map_err(wrong)?;

        let mut eos_ids = config.eos_ids;
        let eos_token = config.special_tokens.get("eos_token").and_then(|token| inner.token_to_id(token));
        eos_ids.extend(eos_token.map(i64::from));
        let mut seen = std::collections::BTreeSet::new();
        eos_ids.retain(|id| seen.insert(*id));

        let byte_level = inner.get_decoder().is_some_and(is_byte_level);
        let control = inner.get_added_tokens_decoder().into_values().filter(|token| token.special);
        let control_tokens = ControlTokens::new(control.map(|token| token.content));
        let found = Self {
            folder: folder.to_owned(),
            inner: Arc::new(inner),
            confinement,
            plain: OnceLock::new(),
            around,
            restarts,
            control_tokens,
            eos_ids,
            special_tokens: config.special_tokens,
            chat_template,
            byte_level,
            vocabulary: config.vocabulary,
        };
        found.within_vocabulary(&found.eos_ids)?;
        found.within_vocabulary(&found.around.concat())?;
        Ok(found)
    }

    /// Rejects ids without an embedding in the model: tokens that were added to its tokenizer only.
    pub(super) fn within_vocabulary(&self, ids: &[i64]) -> Result<()> {
        let Some(vocabulary) = self.vocabulary else { return Ok(()) };
        let Some(id) = ids.iter().find(|id| !(0..vocabulary).contains(id)) else { return Ok(()) };
        let token = self.token(*id).map_or_else(|| "a token".to_owned(), |token| format!("the token {token:?}"));
        Err(Error::Data(format!(
            "{}: {token} has the id {id}, but config.json has a vocabulary of {vocabulary}; expected ids below it: \
             use the tokenizer that the model was trained with",
            self.folder.join("tokenizer.json").display()
        )))
    }

    /// Token ids of a text, with those that the post-processor adds around it: `tokenizer(text)` of transformers.
    /// Special tokens written in the text are recognised.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        Ok([self.encode_prompt(text)?.as_slice(), self.end_of_text()].concat())
    }

    /// Token ids of a text that a response continues: as [`Tokenizer::encode`], without the tokens after the text.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<i64>> {
        let ids = self.ids_of(&self.inner, text)?;
        self.within_vocabulary(&ids)?;
        Ok([self.around[0].as_slice(), &ids].concat())
    }

    /// The tokens that the post-processor adds after a text.
    pub fn end_of_text(&self) -> &[i64] {
        &self.around[1]
    }

    /// Text of token ids, without special tokens. They begin a text: see [`Tokenizer::incremental`] for a response.
    pub fn decode(&self, ids: &[i64]) -> Result<String> {
        let ids = ids
            .iter()
            .map(|id| u32::try_from(*id).map_err(|_| Error::Data(format!("{id} is not a token id"))))
            .collect::<Result<Vec<u32>>>()?;
        let decoded = panic::catch_unwind(AssertUnwindSafe(|| self.inner.decode(&ids, true)));
        let decoded = decoded.unwrap_or_else(|_| Err("its decoder panics".into()));
        decoded.map_err(|e| self.failed("decode", &e))
    }

    /// Decodes a response token by token. `after` is the last token of its prompt: a response continues a text, so its
    /// first space is part of it.
    pub fn incremental(&self, after: Option<i64>) -> IncrementalDecoder<'_> {
        IncrementalDecoder::new(self, after)
    }

    /// Whether an id is a token that is omitted from text (an end token).
    pub fn is_special(&self, id: i64) -> bool {
        self.token(id).is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// The bytes that a token adds to a text whose last token is `before`. Not for special tokens.
    pub(super) fn added_bytes(&self, before: Option<i64>, id: i64) -> Result<Vec<u8>> {
        if self.byte_level || self.token(id).is_some_and(|token| byte_token(&token).is_some()) {
            return Ok(self.token_bytes(id));
        }
        // Other decoders look at what is before a token: at the start of a text its space is dropped.
        match before {
            Some(before) if !self.is_special(before) => {
                let known = self.decode(&[before])?.len();
                let text = self.decode(&[before, id])?;
                Ok(text.as_bytes().get(known..).unwrap_or_default().to_vec())
            }
            Some(_) if !self.restarts => Ok(self.token_bytes(id)),
            _ => Ok(self.decode(&[id])?.into_bytes()),
        }
    }

    /// The token of an id, including special ones, as text for logprobs. Partial characters are replaced by U+FFFD;
    /// [`Tokenizer::token_bytes`] has the bytes.
    pub fn token_text(&self, id: i64) -> String {
        String::from_utf8_lossy(&self.token_bytes(id)).into_owned()
    }

    /// The bytes of a token, including special ones. Empty for an id that the vocabulary does not have.
    pub fn token_bytes(&self, id: i64) -> Vec<u8> {
        let Some(token) = self.token(id) else { return Vec::new() };
        if self.byte_level {
            byte_level_bytes(&token).unwrap_or_else(|| token.into_bytes())
        } else if let Some(byte) = byte_token(&token) {
            vec![byte]
        } else {
            token.replace('\u{2581}', " ").into_bytes()
        }
    }

    /// The token that ends a training text: the tokenizer's own end token, otherwise the first one that ends a
    /// response.
    pub fn end_id(&self) -> Option<i64> {
        let own = self.special_tokens.get("eos_token").and_then(|token| self.inner.token_to_id(token));
        own.map(i64::from).or_else(|| self.eos_ids.first().copied())
    }

    /// The first token, with its id, that another tokenizer does not have under the same id; none where that one reads all that
    /// this one writes.
    pub fn first_missing_in(&self, other: &Self) -> Option<(String, i64)> {
        let theirs = other.inner.get_vocab(true);
        let missing = self.inner.get_vocab(true).into_iter().filter(|(token, id)| theirs.get(token) != Some(id));
        missing.min_by_key(|(_, id)| *id).map(|(token, id)| (token, i64::from(id)))
    }

    /// Length of the longest token in bytes.
    pub fn longest_token(&self) -> usize {
        let ids = self.inner.get_vocab(true).into_values();
        ids.map(|id| self.token_bytes(id.into()).len()).max().unwrap_or_default()
    }

    /// Tokens that end a response: those of config.json, generation_config.json and the tokenizer, without duplicates.
    pub fn eos_ids(&self) -> &[i64] {
        &self.eos_ids
    }

    /// A token to pad sequences with that ends none of them, and its id: the padding token if possible, otherwise the
    /// token for unknown text or the first one of a text. None if there is no such token.
    pub fn padding(&self) -> Option<(&str, i64)> {
        ["pad_token", "unk_token", "bos_token"].iter().find_map(|name| {
            let token = self.special_tokens.get(*name)?;
            let id = i64::from(self.inner.token_to_id(token)?);
            let usable = !self.eos_ids.contains(&id) && self.vocabulary.is_none_or(|vocabulary| id < vocabulary);
            usable.then_some((token.as_str(), id))
        })
    }

    /// Whether the directory has a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }

    /// A conversation as rendered by the model's own template at the time `now`.
    ///
    /// # Errors
    /// [`Error::Data`] if the directory has no template or the template rejects the conversation.
    pub fn render_chat(&self, messages: &[Message], add_generation_prompt: bool, now: DateTime) -> Result<String> {
        let template = self.chat_template.as_ref().ok_or_else(|| {
            let advice = "write prompts as text, or use a chat model";
            Error::Data(format!("{}: the model has no chat template; {advice}", self.folder.display()))
        })?;
        template.render(messages, add_generation_prompt, now).map_err(|e| self.refused(messages, &e))
    }

    /// The rendered texts of a conversation and of its beginnings, at the time of this process.
    pub fn chat<'a>(&'a self, turns: &'a [Message]) -> Chat<'a> {
        self.chat_at(turns, clock::now())
    }

    /// The same at another time.
    pub fn chat_at<'a>(&'a self, turns: &'a [Message], now: DateTime) -> Chat<'a> {
        Chat::new(self, turns, self.control_tokens.mark_for(turns), now)
    }

    /// The tokenizer for texts in which no control token is recognised.
    pub(super) fn plain(&self) -> &Arc<tokenizers::Tokenizer> {
        self.plain.get_or_init(|| {
            let mut plain = tokenizers::Tokenizer::clone(&self.inner);
            plain.set_encode_special_tokens(true);
            Arc::new(plain)
        })
    }

    /// An error in a conversation, with its context: the model, and how the conversation begins.
    pub(crate) fn cannot_write(&self, turns: &[Message], why: &str) -> Error {
        let start: String =
            turns.iter().find(|m| m.role == "user").map_or("", |m| &m.content).chars().take(40).collect();
        Error::Data(format!("{}: {why} (in the conversation that begins with {start:?})", self.folder.display()))
    }

    fn refused(&self, turns: &[Message], error: &TemplateError) -> Error {
        if error.may_pass() {
            return Error::Failed(format!("{}: {error}", self.folder.display()));
        }
        self.cannot_write(turns, &error.to_string())
    }

    /// Token ids of a text and their offsets in it, from this tokenizer or its plain form.
    pub(super) fn encode_with(&self, tokenizer: &Arc<tokenizers::Tokenizer>, text: &str) -> Result<Encoding> {
        self.confined(tokenizer, text, |tokenizer, text| tokenizer.encode(text, false))
    }

    /// Token ids of a text.
    pub(super) fn ids_of(&self, tokenizer: &Arc<tokenizers::Tokenizer>, text: &str) -> Result<Vec<i64>> {
        self.confined(tokenizer, text, |tokenizer, text| Ok(ids(&tokenizer.encode_fast(text, false)?)))
    }

    /// Encodes a text within limits: the file determines the cost of a normalizer or a regular expression.
    fn confined<T: Send + 'static>(
        &self,
        tokenizer: &Arc<tokenizers::Tokenizer>,
        text: &str,
        encode: fn(&tokenizers::Tokenizer, String) -> Result<T, tokenizers::Error>,
    ) -> Result<T> {
        let (tokenizer, text) = (Arc::clone(tokenizer), text.to_owned());
        let encoded = self.confinement.run(limits(text.len()), move || encode(&tokenizer, text));
        let cannot = |e: &dyn std::fmt::Display| format!("{}: the tokenizer cannot encode: {e}", self.folder.display());
        encoded.map_err(|e| error_of(may_pass(&e), cannot(&e)))?.map_err(|e| Error::Data(cannot(&e)))
    }

    pub(super) fn token(&self, id: i64) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }

    pub(super) fn failed(&self, what: &str, error: &tokenizers::Error) -> Error {
        Error::Data(format!("{}: the tokenizer cannot {what}: {error}", self.folder.display()))
    }
}

/// Whether a model has a chat template.
pub fn has_chat_template(folder: &Path) -> Result<bool> {
    Ok(TokenizerConfig::read(folder)?.chat_template.is_some())
}

/// The time for a model's chat template, if it reads the time.
pub fn template_date(folder: &Path) -> Result<Option<DateTime>> {
    let template = TokenizerConfig::read(folder)?.chat_template;
    Ok(template.filter(|source| chat_template::asks_for_time(source)).map(|_| clock::now()))
}

/// A loaded tokenizer, and what it does to every text.
struct Opened {
    tokenizer: tokenizers::Tokenizer,
    around: [Vec<i64>; 2],
    restarts: bool,
}

/// Reads a tokenizer and tests it.
fn open(bytes: &[u8]) -> Result<Opened, String> {
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| format!("not a tokenizer: {e}"))?;
    // What a text is cut or filled to is the caller's choice, not the file's.
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
    let read = |text: &str, around: bool| {
        tokenizer.encode(text, around).map_err(|e| format!("the tokenizer cannot encode {text:?}: {e}"))
    };
    read("Aa 1.\n é\u{4e00}\u{1f600}", false)?;
    let alone = ids(&read("a", false)?);
    let found = read("a", true)?;
    let (all, mask) = (ids(&found), found.get_special_tokens_mask());
    let before = mask.iter().take_while(|special| **special == 1).count();
    let after = if before == all.len() { 0 } else { mask.iter().rev().take_while(|special| **special == 1).count() };
    if all[before..all.len() - after] != alone {
        return Err(
            "post_processor: it changes or repeats a text; only tokens before and after it are supported".into()
        );
    }
    let around = [all[..before].to_vec(), all[all.len() - after..].to_vec()];
    let control = tokenizer
        .get_added_tokens_decoder()
        .into_iter()
        .filter(|(_, t)| t.special && !t.single_word)
        .min_by_key(|(id, _)| *id);
    let restarts = match control {
        Some((_, token)) => ids(&read(&format!("{}a", token.content), false)?).get(1..) == Some(alone.as_slice()),
        None => true,
    };
    Ok(Opened { tokenizer, around, restarts })
}

/// What is wrong with a tokenizer that cannot be read.
fn unreadable(folder: &Path, path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if !folder.exists() => format!("{}: no such directory", folder.display()),
        io::ErrorKind::NotFound => format!(
            "{}: no such file; expected the tokenizer of a Hugging Face model directory, to which a SentencePiece model \
             must be converted first",
            path.display()
        ),
        _ => format!("{}: {error}", path.display()),
    }
}

/// The error of a file that exceeds a limit, or of a process that could not test it.
fn error_of(may_pass: bool, message: String) -> Error {
    if may_pass { Error::Failed(message) } else { Error::Data(message) }
}

fn may_pass(why: &Exceeded) -> bool {
    matches!(why, Exceeded::NoThread(_))
}

/// The limits for a text or a file of `size` bytes: many times the needs of known tokenizers.
fn limits(size: usize) -> Limits {
    let time = Duration::from_secs(20) + Duration::from_micros(20) * u32::try_from(size).unwrap_or(u32::MAX);
    Limits { memory: (64 << 20) + 512 * size, time, stack: 64 << 20 }
}

pub(super) fn ids(encoding: &Encoding) -> Vec<i64> {
    encoding.get_ids().iter().copied().map(i64::from).collect()
}

fn is_byte_level(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteLevel(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(is_byte_level),
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests;
