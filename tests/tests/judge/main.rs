//! The labelling half of the trainer against a judge with planted quality, biases and faults.

#[cfg(test)]
mod dataset;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod kit;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod odd;
#[cfg(test)]
mod spend;
#[cfg(test)]
mod verdicts;
