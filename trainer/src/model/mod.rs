//! The decoder, on packed tokens: one flat sequence of tokens with positions and segment boundaries, without padding.
//! It returns hidden states; a head turns selected rows into log-probabilities or scalars.
//!
//! | file | contents |
//! |---|---|
//! | `architecture` | what a decoder computes, as one value |
//! | `family` | the supported families: how to read each one's config, and its weight names |
//! | `config` | `config.json`, checked |
//! | `weights` | ids of a decoder's weights, by function |
//! | `decoder` | embedding, layers, final norm |
//! | `attention` | attention over packed segments, over a shared prefix, and over a cache |
//! | `masks` | which tokens a token attends to |
//! | `packed` | segments of tokens, concatenated |
//! | `cache` | keys and values of tokens that were already processed |
//! | `rotary` | position embedding, and its scalings beyond the original context |
//! | `norm` | normalisations and activations |
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
pub mod masks;
pub mod norm;
pub mod packed;
pub mod reward_model;
pub mod rotary;
pub mod trainable;
pub mod view;
pub mod weights;
