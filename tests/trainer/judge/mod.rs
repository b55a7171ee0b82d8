//! The labelling half of the trainer against a judge with planted quality, biases and faults.

mod dataset;
mod faults;
mod hostile;
mod kit;
mod mutations;
mod odd;
mod several;
mod spend;
mod verdicts;
