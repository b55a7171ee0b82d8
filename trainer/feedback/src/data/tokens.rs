//! Prompts and responses as tokens, the same for training, scoring and sampling. Pure, apart from the tokenizer.
//!
//! A prompt and its response are tokenised together as one text, and the prompt is the common prefix with the tokens of
//! the prompt alone. A token across the boundary (` wor|ld`) belongs to the response. TRL does the same.
//!
//! A plain-text response gets no end token except what the tokenizer adds after every text: responses are often
//! truncated, and an added end token would teach the model to stop there. In a conversation the model's chat template
//! closes the turn.

use serde::{Deserialize, Serialize};

use crate::data::responses::Finish;
use crate::data::{Content, Message};
use crate::text::chat::{Chat, SHORT};
use crate::text::tokenizer::Tokenizer;
use crate::{Error, Result};

/// A prompt and a response to it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// Tokens of the prompt, including the generation prompt of a chat template.
    pub prompt: Vec<i64>,
    /// Tokens of the response.
    pub response: Vec<i64>,
}

/// How much of a response is preserved in the text that a model sees, in order of increasing loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rendering {
    /// All of it. Always the case for plain text.
    Whole,
    /// The chat template removed white space around it.
    Trimmed,
    /// The chat template removed or changed more than white space: for example it removes reasoning, or expects another
    /// form of content.
    Changed,
}

/// The tokens of a prompt and a response, and whether the response is preserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenised {
    /// The tokens.
    pub sequence: Sequence,
    /// How much of the response is preserved.
    pub rendering: Rendering,
}

impl Sequence {
    /// The tokens of prompt and response, concatenated.
    pub fn tokens(&self) -> Vec<i64> {
        [self.prompt.as_slice(), &self.response].concat()
    }

    /// The tokens of prompt and response as a reward model was trained on them: the end token that a model sampled
    /// (`finish`) is only included if it closes a turn of a conversation; a plain text ends with the tokens that the
    /// tokenizer adds to every text (`end_of_text`).
    pub fn text_tokens(&self, finish: Finish, conversation: bool, end_of_text: &[i64]) -> Vec<i64> {
        let mut tokens = self.tokens();
        if conversation {
            return tokens;
        }
        if finish == Finish::Eos && self.response.len() > 1 {
            tokens.pop();
        }
        tokens.extend(end_of_text);
        tokens
    }

    /// Total number of tokens.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.response.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Tokens of a prompt for sampling a response.
pub fn prompt(tokenizer: &Tokenizer, prompt: &Content) -> Result<Vec<i64>> {
    match prompt {
        Content::Text(text) => tokenizer.encode_prompt(text),
        Content::Messages(turns) => {
            let chat = tokenizer.chat(turns);
            chat.encode(&chat.prompt(turns.len())?)
        }
    }
}

/// Tokens of a prompt for a model with a known maximum prompt length. `field` is the spec field for messages.
pub fn prompt_within(tokenizer: &Tokenizer, content: &Content, longest: usize, field: &str) -> Result<Vec<i64>> {
    let tokens = prompt(tokenizer, content).map_err(|e| e.within(field))?;
    if (1..=longest).contains(&tokens.len()) {
        return Ok(tokens);
    }
    let start: String = content.to_text().chars().take(40).collect();
    Err(Error::Data(format!(
        "{field}: expected prompts of 1 to {longest} tokens, so that prompt and response fit the model's context of \
         {}, found {} tokens in the prompt that begins with {start:?}; shorten or remove it",
        longest + 1,
        tokens.len()
    )))
}

/// Tokens of a prompt and of two responses to it.
///
/// # Errors
/// [`Error::Data`] with the beginning of the conversation if the chat template rejects it, or renders its prompt
/// differently once it is answered.
pub fn pair(tokenizer: &Tokenizer, prompt: &Content, chosen: &Content, rejected: &Content) -> Result<[Tokenised; 2]> {
    match (prompt, chosen, rejected) {
        (Content::Text(prompt), Content::Text(chosen), Content::Text(rejected)) => {
            let before = tokenizer.encode_prompt(prompt)?;
            let side = |response: &str| -> Result<Tokenised> {
                let whole = if response.is_empty() {
                    before.clone()
                } else {
                    tokenizer.encode(&format!("{prompt}{response}"))?
                };
                Ok(Tokenised { sequence: cut(&before, whole), rendering: Rendering::Whole })
            };
            Ok([side(chosen)?, side(rejected)?])
        }
        (Content::Messages(prompt), Content::Messages(chosen), Content::Messages(rejected)) => {
            // Both responses are included, so that their control tokens are marked like those of the prompt.
            let turns = [prompt.as_slice(), chosen, rejected].concat();
            let chat = tokenizer.chat(&turns);
            let text = chat.prompt(prompt.len())?;
            let before = Before { turns: prompt, tokens: chat.encode(&text)?, text };
            let side = |response: &[Message]| answered(tokenizer, &chat, &before, response);
            Ok([side(chosen)?, side(rejected)?])
        }
        _ => Err(Error::Data("expected prompt and responses all as text or all as messages".into())),
    }
}

/// Splits the tokens of prompt and response after their common prefix with those of the prompt.
fn cut(prompt: &[i64], mut whole: Vec<i64>) -> Sequence {
    let common = prompt.iter().zip(&whole).take_while(|(a, b)| a == b).count();
    let response = whole.split_off(common);
    Sequence { prompt: whole, response }
}

/// A conversation without its response, as turns, text and tokens.
struct Before<'a> {
    turns: &'a [Message],
    text: String,
    tokens: Vec<i64>,
}

/// Tokenises a conversation with its response.
fn answered(tokenizer: &Tokenizer, chat: &Chat<'_>, before: &Before<'_>, response: &[Message]) -> Result<Tokenised> {
    let turns = [before.turns, response].concat();
    let whole = chat.text_of(&turns, false)?;
    let Some(answer) = whole.strip_prefix(&before.text) else {
        return Err(tokenizer.cannot_write(before.turns, &differs(&before.text, &whole)));
    };
    let (mut end, mut rendering) = (0, Rendering::Whole);
    for turn in response {
        let (found, to) = find(chat, &turn.content, &answer[end..]);
        (end, rendering) = (end + to, if rendering == Rendering::Whole { found } else { rendering });
    }
    // A short content may occur in the template's own text, so that finding it proves nothing.
    let is_short = |&turn: &usize| (1..SHORT).contains(&turns[turn].content.trim().len());
    let short: Vec<usize> = (before.turns.len()..turns.len()).filter(is_short).collect();
    if rendering != Rendering::Changed && !short.is_empty() && chat.ignores(&turns, &short, false, &whole)? {
        rendering = Rendering::Changed;
    }
    // Text that a template adds after the end of the turn (usually a line break) is not sampled by a model.
    let answer = [&answer[..end], answer[end..].trim_end_matches('\n')].concat();
    let sequence = cut(&before.tokens, chat.encode(&format!("{}{answer}", before.text))?);
    Ok(Tokenised { sequence, rendering })
}

/// How a response is represented in the rendered text, and its end position there.
fn find(chat: &Chat<'_>, content: &str, answer: &str) -> (Rendering, usize) {
    for (part, rendering) in [(content, Rendering::Whole), (content.trim(), Rendering::Trimmed)] {
        let part = chat.part(part);
        if let Some(at) = answer.find(&part) {
            return (rendering, at + part.len());
        }
    }
    (Rendering::Changed, 0)
}

/// Describes where the text of the conversation with response diverges from that of its prompt.
fn differs(before: &str, whole: &str) -> String {
    let common: usize = before.chars().zip(whole.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    let next = |text: &str| text[common..].chars().take(30).collect::<String>();
    format!(
        "the chat template writes a prompt differently once it is answered: {:?} follows in the prompt and {:?} in \
         the answered conversation, so responses cannot be separated from prompts; use a model whose template writes \
         both alike",
        next(before),
        next(whole)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::fixture::byte_level;
    use crate::text::tokenizer::tests::{list, llama_2_type, of_transformers};

    fn sequence(tokenizer: &Tokenizer, prompt: &Content, response: &Content) -> Result<Tokenised> {
        super::pair(tokenizer, prompt, response, response).map(|[one, _]| one)
    }

    #[test]
    fn only_the_end_token_of_a_plain_text_is_omitted() {
        let of = |response: &[i64]| Sequence { prompt: vec![1, 2], response: response.to_vec() };
        for (finish, plain) in
            [(Finish::Eos, vec![1, 2, 3]), (Finish::Stop, vec![1, 2, 3, 4]), (Finish::Length, vec![1, 2, 3, 4])]
        {
            assert_eq!(of(&[3, 4]).text_tokens(finish, false, &[]), plain, "{finish:?}");
            assert_eq!(of(&[3, 4]).text_tokens(finish, true, &[9]), [1, 2, 3, 4], "{finish:?}");
        }
        assert_eq!(of(&[4]).text_tokens(Finish::Eos, false, &[]), [1, 2, 4], "something is left to score");
        assert_eq!(of(&[3, 4]).text_tokens(Finish::Eos, false, &[9]), [1, 2, 3, 9], "as every text ends");
    }

    /// A tokenizer with this chat template.
    fn with_template(template: &str) -> (tempfile::TempDir, Tokenizer) {
        let folder = tempfile::tempdir().unwrap();
        let config = serde_json::json!({"chat_template": template, "eos_token": "<|end|>"}).to_string();
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        let tokenizer = byte_level(folder.path());
        (folder, tokenizer)
    }

    fn turns(role: &str, content: &str) -> Content {
        Content::Messages(vec![Message { role: role.into(), content: content.into() }])
    }

    const CHATML: &str = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}";

    #[test]
    fn prompts_and_responses_are_tokenised_as_by_transformers() {
        for golden in of_transformers() {
            let folder = tempfile::tempdir().unwrap();
            let tokenizer = llama_2_type(folder.path(), golden["bos"].as_bool().unwrap());
            let expected = |entry: &serde_json::Value| Sequence {
                prompt: list(&entry["prompt_ids"]),
                response: list(&entry["response_ids"]),
            };
            for entry in golden["pairs"].as_array().unwrap() {
                let text = |value: &serde_json::Value| Content::Text(value.as_str().unwrap().to_owned());
                for side in [&entry["chosen"], &entry["rejected"]] {
                    let found = sequence(&tokenizer, &text(&entry["prompt"]), &text(&side["response"])).unwrap();
                    assert_eq!(found, Tokenised { sequence: expected(side), rendering: Rendering::Whole }, "{entry}");
                }
            }
            for entry in golden["chats"].as_array().unwrap() {
                let prompt: Vec<Message> = serde_json::from_value(entry["prompt"].clone()).unwrap();
                let prompt = Content::Messages(prompt);
                let response = turns("assistant", entry["response"].as_str().unwrap());
                let found = sequence(&tokenizer, &prompt, &response).unwrap();
                assert_eq!(found, Tokenised { sequence: expected(entry), rendering: Rendering::Whole }, "{entry}");
                assert_eq!(super::prompt(&tokenizer, &prompt).unwrap(), found.sequence.prompt);
            }
        }
    }

    #[test]
    fn content_that_a_template_omits_from_a_response_is_detected() {
        let trims = CHATML.replace("m.content }}", "m.content | trim }}");
        let thinks = CHATML.replace("m.content }}", "m.content.split('</think>')[-1] }}");
        let parts = CHATML.replace(
            "{{ m.content }}",
            "{% if m.role == 'user' %}{{ m.content }}{% else %}{% for part in m.content %}{% if part['type'] == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}",
        );
        for (template, response, expected) in [
            (CHATML, "yes \n\n", Rendering::Whole),
            (CHATML, "", Rendering::Whole),
            (&trims, "yes", Rendering::Whole),
            (&trims, "yes \n", Rendering::Trimmed),
            (&trims, "  ", Rendering::Trimmed),
            (&thinks, "a plain answer", Rendering::Whole),
            (&thinks, "<think>hm</think>a plain answer", Rendering::Changed),
            (&parts, "a plain answer", Rendering::Changed),
            (&parts, "end", Rendering::Changed),
            (&parts, "|", Rendering::Changed),
        ] {
            let (_folder, tokenizer) = with_template(template);
            let found = sequence(&tokenizer, &turns("user", "hi"), &turns("assistant", response)).unwrap();
            assert_eq!(found.rendering, expected, "{response:?} in {template}");
        }
    }

    #[test]
    fn a_template_that_omits_the_prompt_is_rejected() {
        let of = |role: &str, body: &str| {
            CHATML.replace(
                "{{ m.content }}",
                &format!("{{% if m.role == '{role}' %}}{body}{{% else %}}{{{{ m.content }}}}{{% endif %}}"),
            )
        };
        let parts = "{% for part in m.content %}{{ part.text }}{% endfor %}";
        let turn = |(role, content): (&str, &str)| Message { role: role.into(), content: content.into() };
        let long = [
            ("system", "Answer in verse."),
            ("user", "What is the sea?"),
            ("assistant", "<think>hm</think>Water."),
            ("user", "And salt?"),
        ];
        let short = [("user", "user")];
        for (template, turns, left_out) in [
            (CHATML.to_owned(), &long[..], None),
            (CHATML.to_owned(), &short[..], None),
            (of("user", "{{ m.content | upper | trim }}"), &long[..], None),
            (of("assistant", "{{ m.content.split('</think>')[-1] }}"), &long[..], None),
            (of("user", parts), &long[..], Some("What is the sea?")),
            (of("user", parts), &short[..], Some("user")),
            (of("system", ""), &long[..], Some("Answer in verse.")),
        ] {
            let (folder, tokenizer) = with_template(&template);
            let turns = Content::Messages(turns.iter().copied().map(turn).collect());
            let answered = sequence(&tokenizer, &turns, &super::tests::turns("assistant", "Salt."));
            let asked = super::prompt(&tokenizer, &turns);
            assert_eq!((asked.is_err(), answered.is_err()), (left_out.is_some(), left_out.is_some()), "{template}");
            if let (Some(start), Err(error)) = (left_out, asked) {
                let (error, folder) = (error.to_string(), folder.path().display().to_string());
                assert!(error.contains(&format!("begins with {start:?}")) && error.contains(&folder), "{error}");
            }
        }
    }

    #[test]
    fn only_a_responses_own_line_breaks_are_kept() {
        let (_folder, tokenizer) = with_template(&CHATML.replace("{{ eos_token }}", ""));
        let found = sequence(&tokenizer, &turns("user", "hi"), &turns("assistant", "yes\n\n")).unwrap();
        assert_eq!(found.sequence.response, b"yes\n\n".map(i64::from));
    }

    #[test]
    fn a_template_that_changes_an_answered_prompt_is_rejected() {
        let (folder, tokenizer) =
            with_template(&CHATML.replace("[assistant] {% endif", "[assistant] <think>\n{% endif"));
        let error = sequence(&tokenizer, &turns("user", "what is the sea"), &turns("assistant", "yes"));
        let error = error.unwrap_err().to_string();
        for part in
            [&folder.path().display().to_string(), "\"what is the sea\"", "\"<think>\\n\"", "once it is answered"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
        let (folder, tokenizer) = with_template("{{ raise_exception('no system role') }}");
        let error = super::prompt(&tokenizer, &turns("user", "what is the sea")).unwrap_err().to_string();
        for part in [&folder.path().display().to_string(), "\"what is the sea\"", "no system role"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
