//! The test kit: what tests of more than one crate share. It needs no libtorch; programs that do are started as processes.
//!
//! | question | file |
//! |---|---|
//! | Who answers in place of a judge, with planted quality and faults? | `judge_sim` |
//! | Who answers in place of the Hugging Face hub? | `hub` |
//! | Which S3 server do runs talk to, and over which line? | `store`, `flaky_proxy` |
//! | Which model, prompts and words do tests use? | `fixture` (made by `make fixture`) |
//! | Which manifests are run? | `chain` |
//! | How are the real programs run, and killed? | `programs`, `place`, `stage` for one stage alone, `pod` for one that keeps its run in a store, `fetch` for what comes before |
//! | What is a GPU to programs under test, where there is none? | `stand_in` |
//! | Which Kubernetes do tests talk to, and how is the operator run on it? | `cluster`, `operator`; `proxy` between the two |
//! | How is the chart installed? | `helm` |
//! | What is a disk that fills up? | `small_disk` |
//! | Which server sends what it should not? | `raw_server` |
//! | What does TensorBoard see? | `events` |
//! | What does Prometheus see? | `prometheus` |
//! | How do GitOps tools read what was served? | `gitops` |
//! | How does Flux deploy? | `flux` |
//! | Where do programs listen that are told so beforehand? | `ports` |

pub mod chain;
pub mod cluster;
pub mod events;
pub mod fetch;
pub mod fixture;
pub mod flaky_proxy;
pub mod flux;
pub mod gang;
pub mod gitops;
pub mod helm;
pub mod hub;
pub mod judge_sim;
pub mod operator;
pub mod place;
pub mod pod;
pub mod ports;
pub mod programs;
pub mod prometheus;
pub mod proxy;
pub mod raw_server;
pub mod small_disk;
pub mod stage;
pub mod stand_in;
pub mod store;
