//! The decoder, on packed tokens: one flat sequence of tokens with positions and segment boundaries, no padding. It
//! returns hidden states; a head turns chosen rows into log-probabilities or scalars.
//!
//! | file | what it holds |
//! |---|---|
//! | `architecture` | what a decoder computes, as one value |
//! | `family` | the families that are supported: how each says that value, and its names |
//! | `config` | `config.json`, checked |
//! | `weights` | the weights of a decoder, by what they do |
//! | `decoder` | embedding, layers, final norm |
//! | `attention` | attention over packed segments, over a shared prefix, and over a cache |
//! | `packed` | segments laid end to end |
//! | `cache` | keys and values of what was already read |
//! | `rotary` | position embedding |
//! | `layer` | the weights of a layer |
//! | `linear` | a projection, with its bias and its low-rank adapter |
//! | `heads` | token log-probabilities; a scalar |
//! | `lora` | adapters of a decoder |
//! | `trainable` | which weights are trained |
//! | `reward_model` | a decoder with a scalar head |

pub mod architecture;
pub mod attention;
pub mod cache;
pub mod config;
pub mod decoder;
pub mod family;
pub mod heads;
pub mod layer;
pub mod linear;
pub mod lora;
pub mod packed;
pub mod reward_model;
pub mod rotary;
pub mod trainable;
pub mod view;
pub mod weights;
