//! A conversation as its model sees it: the text of its template, and its tokens. Computes.

use jiff::civil::DateTime;

use super::tokenizer::{Tokenizer, ids};
use crate::Result;
use crate::data::Message;

/// Length in bytes below which a turn's content may occur in a text by coincidence.
pub(crate) const SHORT: usize = 8;

/// A conversation.
pub struct Chat<'a> {
    tokenizer: &'a Tokenizer,
    turns: &'a [Message],
    mark: Option<char>,
    now: DateTime,
}

impl<'a> Chat<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, turns: &'a [Message], mark: Option<char>, now: DateTime) -> Self {
        Self { tokenizer, turns, mark, now }
    }

    /// The first `turns` turns as rendered by the template. Control tokens inside a turn are marked.
    pub fn text(&self, turns: usize, add_generation_prompt: bool) -> Result<String> {
        self.text_of(&self.turns[..turns], add_generation_prompt)
    }

    /// The first `turns` turns as a prompt to be answered.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) if the template rejects them, or renders the same text whatever a system or
    /// user turn contains, as one does that expects content in another form: the model would answer a different
    /// question. How it renders earlier answers is up to the template; many omit their reasoning.
    pub fn prompt(&self, turns: usize) -> Result<String> {
        let (turns, text) = (&self.turns[..turns], self.text(turns, true)?);
        let asks = |turn: &Message| ["system", "user"].contains(&turn.role.as_str());
        // A few characters may be in what the template writes anyway.
        let is_there = |content: &str| content.len() >= SHORT && text.contains(&self.part(content));
        let doubtful: Vec<usize> = (0..turns.len())
            .filter(|&i| asks(&turns[i]) && !turns[i].content.trim().is_empty() && !is_there(turns[i].content.trim()))
            .collect();
        if let Some(i) = self.first_ignored(turns, &doubtful, &text)? {
            let (role, start) = (&turns[i].role, turns[i].content.trim().chars().take(40).collect::<String>());
            let why = format!(
                "the chat template omits the {role} turn that begins with {start:?}; use a model whose template \
                 writes it, or prompts without such a turn"
            );
            return Err(self.tokenizer.cannot_write(turns, &why));
        }
        Ok(text)
    }

    /// The first of some turns whose content does not affect the rendered text. `text`: the rendered text as it is.
    fn first_ignored(&self, turns: &[Message], doubtful: &[usize], text: &str) -> Result<Option<usize>> {
        /// Number of turns that are checked individually, each of which costs a rendering.
        const MOST: usize = 8;
        if doubtful.is_empty() {
            return Ok(None);
        }
        // Each says something else, that it can be found by.
        let mark = |i: usize| format!("q{i}z");
        let mut others = turns.to_vec();
        for &i in doubtful {
            others[i].content.push_str(&mark(i));
        }
        let altered = self.text_of(&others, true)?.to_lowercase();
        for &i in doubtful.iter().filter(|&&i| !altered.contains(&mark(i))).take(MOST) {
            if self.ignores(turns, &[i], true, text)? {
                return Ok(Some(i));
            }
        }
        Ok(None)
    }

    /// Whether the rendered text stays the same when the content of the turns at `indices` changes. `text` is the text
    /// for `turns` as they are.
    pub(crate) fn ignores(
        &self,
        turns: &[Message],
        indices: &[usize],
        add_generation_prompt: bool,
        text: &str,
    ) -> Result<bool> {
        let mut others = turns.to_vec();
        for &i in indices {
            others[i].content.push('x');
        }
        Ok(self.text_of(&others, add_generation_prompt)? == text)
    }

    /// As [`Chat::text`], for other turns. A control token in them must also be in a turn of this conversation: that decides
    /// whether control tokens are marked.
    pub(crate) fn text_of(&self, turns: &[Message], add_generation_prompt: bool) -> Result<String> {
        let tokenizer = self.tokenizer;
        match self.mark {
            None => tokenizer.render_chat(turns, add_generation_prompt, self.now),
            Some(mark) => {
                tokenizer.render_chat(&tokenizer.control_tokens.marked(turns, mark), add_generation_prompt, self.now)
            }
        }
    }

    /// Part of a turn as it is in such a text.
    pub(crate) fn part(&self, text: &str) -> String {
        self.mark.map_or_else(|| text.to_owned(), |mark| self.tokenizer.control_tokens.mark(text, mark))
    }

    /// Token ids of such a text. No token is added. Control tokens of the template are recognised, those inside a turn
    /// are text.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let tokenizer = self.tokenizer;
        let tokens = match self.mark {
            Some(mark) if text.contains(mark) => self.encode_marked(text, mark)?,
            _ => tokenizer.ids_of(&tokenizer.inner, text)?,
        };
        tokenizer.within_vocabulary(&tokens)?;
        Ok(tokens)
    }

    /// Tokens of a text with marks: what is between the template's own control tokens is tokenised again without the
    /// marks and without control tokens.
    fn encode_marked(&self, text: &str, mark: char) -> Result<Vec<i64>> {
        let found = self.tokenizer.encode_with(&self.tokenizer.inner, text)?;
        let (all, offsets) = (ids(&found), found.get_offsets());
        let is_control = |i: usize| {
            // A token of one character has its mark behind it.
            self.tokenizer.is_special(all[i]) && !text[offsets[i].1..].starts_with(mark)
        };
        let mut tokens = Vec::with_capacity(all.len());
        let (mut first, mut start) = (0, 0);
        for i in 0..=all.len() {
            let end = match offsets.get(i) {
                Some(_) if !is_control(i) => continue,
                Some(offset) => offset.0,
                None => text.len(),
            };
            let between = text.get(start..end).unwrap_or_default();
            if between.contains(mark) {
                tokens.extend(self.encode_plain(&between.replace(mark, ""), start > 0)?);
            } else {
                tokens.extend(&all[first..i]);
            }
            tokens.extend(all.get(i));
            (first, start) = (i + 1, offsets.get(i).map_or(end, |offset| offset.1));
        }
        Ok(tokens)
    }

    /// Tokens of a text in which no control token is recognised, at the start of a text or inside one.
    fn encode_plain(&self, text: &str, inside: bool) -> Result<Vec<i64>> {
        let tokenizer = self.tokenizer;
        let plain = tokenizer.plain();
        let read = |text: &str| tokenizer.ids_of(plain, text);
        // Where a text begins a space is put before it; a line break stands for what is before it.
        let lead = if inside && !tokenizer.restarts { "\n" } else { "" };
        let whole = read(&format!("{lead}{text}"))?;
        let tokens = match whole.strip_prefix(read(lead)?.as_slice()) {
            Some(rest) => rest.to_vec(),
            None => read(text)?,
        };
        let control = |id: &i64| tokenizer.token(*id).filter(|token| tokenizer.is_special(*id) && text.contains(token));
        match tokens.iter().find_map(control) {
            None => Ok(tokens),
            Some(token) => {
                let why = format!(
                    "a turn contains {token:?}, which this tokenizer can only read as a control token; remove \
                             it"
                );
                Err(tokenizer.cannot_write(self.turns, &why))
            }
        }
    }
}
