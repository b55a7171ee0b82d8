//! Whole runs on the tiny model, by the real programs: labels, training, ranks, stores and what a judge may do to them.
//!
//! | question | file |
//! |---|---|
//! | Does a chain learn the planted preference, the same as ever? | `pipeline`, `methods`, `trajectory`, `measured` |
//! | How does a run that is killed or stopped continue? | `resume`, `late`, `stopped`, `object_store_resume` |
//! | What may a judge answer? | `judge` |
//! | Do ranks and micro-batches compute the same? | `ranks`, `micro_batch` |
//! | Where do the losses of the DPO family start, and what do they compare with? | `losses` |
//! | Where do inputs come from, and artifacts go? | `hub`, `web`, `store`, `storage`, `input_cache`, `rows` |
//! | Are texts and tokens those of transformers? | `tokens` |
//! | What does bad input do? | `bad_input` |
//! | Is everything on the GPU that has to be? | `gpu` |

mod bad_input;
mod gpu;
mod hub;
mod input_cache;
mod judge;
mod late;
mod losses;
mod measured;
mod methods;
mod micro_batch;
mod object_store_resume;
mod pipeline;
mod ranks;
mod resume;
mod rows;
mod stopped;
mod storage;
mod store;
mod tokens;
mod trajectory;
mod web;
