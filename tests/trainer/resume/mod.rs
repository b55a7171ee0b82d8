//! Killed or asked to stop at any point, a chain continues where it was and ends with the very artifacts of a chain that
//! was left alone; and no answer that a judge was paid for is asked for again.

mod kit;
mod moments;
mod random;
