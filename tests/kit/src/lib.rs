//! The test kit: what tests of more than one crate share. It needs no libtorch; programs that do are started as processes.
//!
//! | question | file |
//! |---|---|
//! | What simulates a judge, with planted quality and faults? | `judge_sim` |
//! | What simulates the Hugging Face hub? | `hub` |
//! | Which S3 server do runs use, and how does its connection fail? | `store`, `flaky_proxy` |
//! | Which model, prompts and words do tests use? | `fixture` (made by `make fixture`) |
//! | Which manifests are run? | `chain` |
//! | How are real programs run? | `programs`, `place`, `stage`, `pod` (state in a store), `fetch` (init containers) |
//! | What replaces a GPU where there is none? | `stand_in` |
//! | Which Kubernetes is used, and how is the operator run on it? | `cluster`, `operator`; `proxy` between the two |
//! | How is the chart installed? | `helm` |
//! | How does a test fill a disk? | `small_disk` |
//! | Which server sends invalid responses? | `raw_server` |
//! | What does TensorBoard read? | `events` |
//! | What does Prometheus scrape? | `prometheus` |
//! | How do GitOps tools interpret our resources? | `gitops` |
//! | How does Flux deploy? | `flux` |
//! | Which ports may programs listen on that need one in advance? | `ports` |

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
