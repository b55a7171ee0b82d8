//! Inputs that are not on a file system.
//!
//! | question | file |
//! |---|---|
//! | Which files of a repository are fetched, from which URLs? | `listing` |
//! | How is a repository of the Hugging Face hub brought here? | `hub` |
//! | How are objects of S3, Google Cloud Storage and Azure brought here? | `bucket` |
//! | How is one file brought here, whatever happens on the way? | `download` |

pub mod bucket;
pub mod download;
pub mod hub;
pub mod listing;
