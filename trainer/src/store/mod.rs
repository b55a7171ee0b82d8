//! Inputs that are not on a file system.
//!
//! | question | file |
//! |---|---|
//! | Which files of a repository are fetched, from which URLs? | `listing` |
//! | How is a repository of the Hugging Face hub brought here? | `hub` |
//! | How is one file brought here, whatever happens on the way? | `download` |

pub mod download;
pub mod hub;
pub mod listing;
