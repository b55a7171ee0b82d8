//! Model files changed at random, from a fixed seed: whatever they hold, they are read or refused by name, in bounded time,
//! and a tokenizer that is read gives the same tokens each time.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::tokenizer::Tokenizer;
use super::tokenizer::tests::llama_2_type;
use crate::Error;
use crate::data::Message;

const TEMPLATE: &str = "{% set ns = namespace(text='') %}{% for m in messages %}{% if m.role == 'user' and loop.index0 % 2 == 0 %}\
    {{ '<s>' + m['content'] | trim + ' ' }}{% elif m.content is string %}{% set ns.text = ns.text ~ m.content.split('x')[-1] %}\
    {{ ns.text[1:] | upper }}{% else %}{{ raise_exception('no') }}{% endif %}{% endfor %}{{ messages | tojson(indent=2) }}\
    {%- macro f(a, b=3) -%}{{ a * b }}{%- endmacro -%}{{ f('ab') }}{{ range(3) | map('string') | join(', ') }}";

/// A file with some of its bytes replaced, doubled or cut, or with a part of it repeated.
fn mutated(file: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    const TOKENS: [&str; 12] =
        ["\"", "{", "}", "[", "null", "-1", "1e99", "\\ud800", "{%", "}}", "\u{2581}", "9223372036854775807"];
    let mut bytes = file.to_vec();
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..bytes.len());
        let to = (at + random.random_range(1..40)).min(bytes.len());
        match random.random_range(0..5) {
            0 => bytes[at] = random.random(),
            1 => drop(bytes.drain(at..to)),
            2 => drop(bytes.splice(at..at, TOKENS[random.random_range(0..TOKENS.len())].bytes())),
            3 => {
                let part = bytes[at..to].repeat(random.random_range(1..50));
                drop(bytes.splice(at..at, part));
            }
            _ => drop(bytes.splice(at..to, TOKENS[random.random_range(0..TOKENS.len())].bytes())),
        }
        if bytes.is_empty() {
            bytes.push(b'x');
        }
    }
    bytes
}

/// Reads and uses what is in a folder. Returns whether it could be read.
fn used(folder: &Path) -> bool {
    let data = |error: Error| assert!(matches!(error, Error::Data(_)), "{error}");
    let tokenizer = match Tokenizer::load(folder) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            assert!(error.to_string().contains(&folder.display().to_string()), "{error}");
            data(error);
            return false;
        }
    };
    let text = "Once upon a time\n </s> aaaa \u{1f600}";
    match tokenizer.encode(text) {
        Ok(ids) => {
            assert_eq!(tokenizer.encode(text).unwrap(), ids);
            let mut decoder = tokenizer.incremental(None);
            for id in ids {
                drop(decoder.push(id).map_err(data));
            }
        }
        Err(error) => data(error),
    }
    let turn = |role: &str| Message { role: role.into(), content: "hi </s> x y".into() };
    let turns = [turn("user"), turn("assistant")];
    let chat = tokenizer.chat(&turns);
    drop(chat.text(2, true).and_then(|text| chat.encode(&text)).map_err(data));
    true
}

/// Mutates a file of a tokenizer's folder for some seconds at most.
fn mutate(name: &str, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    llama_2_type(folder.path(), true);
    std::fs::write(folder.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    assert!(used(folder.path()), "as it is, it can be read");
    let path = folder.path().join(name);
    let file = std::fs::read(&path).unwrap();
    let (mut random, begun) = (ChaCha8Rng::seed_from_u64(seed), Instant::now());
    let (mut read, mut refused) = (0, 0);
    while read + refused < 150 && begun.elapsed() < Duration::from_secs(8) {
        std::fs::write(&path, mutated(&file, &mut random)).unwrap();
        let one = Instant::now();
        if used(folder.path()) {
            read += 1;
        } else {
            refused += 1;
        }
        assert!(one.elapsed() < Duration::from_mins(1), "{name}: {:?}", one.elapsed());
    }
    assert!(read > 0 && refused > 0, "{name}: {read} read, {refused} refused");
}

#[test]
fn a_tokenizer_changed_at_random_is_read_or_refused() {
    mutate("tokenizer.json", 1);
}

#[test]
fn a_description_changed_at_random_is_read_or_refused() {
    mutate("tokenizer_config.json", 2);
}

#[test]
fn a_chat_template_changed_at_random_is_read_or_refused() {
    mutate("chat_template.jinja", 3);
}
