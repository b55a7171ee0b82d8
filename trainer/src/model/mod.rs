//! The decoder, on packed tokens: one flat sequence of tokens with positions and segment boundaries, no padding. It
//! returns hidden states; a head turns chosen rows into log-probabilities or scalars.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | `config.json` of the Llama family, checked |
//! | `decoder` | embedding, layers, final norm |
//! | `attention` | attention over packed segments, over a shared prefix, and over a cache |
//! | `packed` | segments laid end to end |
//! | `cache` | keys and values of what was already read |
//! | `rotary` | position embedding |
//! | `linear` | a projection, with its low-rank adapter |
//! | `heads` | token log-probabilities; a scalar |

pub mod attention;
pub mod cache;
pub mod config;
pub mod decoder;
pub mod heads;
pub mod linear;
pub mod lora;
pub mod packed;
pub mod rotary;
pub mod trainable;
pub mod view;
