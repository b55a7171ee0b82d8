//! The pod that a stage runs in: a typed subset of a PodSpec, so that each CRD stays small enough for plain `kubectl
//! apply`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::source::{KeyRef, OBJECT_NAME, SecretRef};

/// Pod settings of a stage. A local run reads only `accelerators`, `threads` and `maxRetries`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Compute {
    /// Accelerators per pod; 0 runs on the CPU. Defaults to 0.
    #[schemars(range(min = 0, max = 64))]
    pub accelerators: i64,
    /// Pods that train together, each on a fraction of every batch. Defaults to 1.
    #[schemars(range(min = 1, max = 1024))]
    pub nodes: i64,
    /// CPU threads per process. Defaults to the number of CPUs that the process may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub threads: Option<i64>,
    /// Resource requests and limits of each container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Labels that a node must have for the pods to be scheduled on it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pods tolerate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Additional environment variables of the trainer container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// Image of the trainer. Defaults to the image that the operator is configured with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Secrets in the same namespace with the credentials to pull the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub image_pull_secrets: Vec<SecretRef>,
    /// ServiceAccount of the pods. By default the operator creates one without permissions for the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub service_account_name: Option<String>,
    /// PriorityClass of the pods. Defaults to the default class of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub priority_class_name: Option<String>,
    /// RuntimeClass of the pods. Defaults to the default runtime of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub runtime_class_name: Option<String>,
    /// Kueue LocalQueue that the Job is submitted to. By default the Job starts without a queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = OBJECT_NAME))]
    pub queue_name: Option<String>,
    /// Failed attempts that are retried. Disruptions such as preemption and node drains do not count. Defaults to 3.
    #[schemars(range(min = 0, max = 100))]
    pub max_retries: i64,
    /// Deadline of the run in seconds of running time, not counting suspensions. By default there is no deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub deadline_seconds: Option<i64>,
}

impl Default for Compute {
    fn default() -> Self {
        Self {
            accelerators: 0,
            nodes: 1,
            threads: None,
            resources: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            env: Vec::new(),
            image: None,
            image_pull_secrets: Vec::new(),
            service_account_name: None,
            priority_class_name: None,
            runtime_class_name: None,
            queue_name: None,
            max_retries: 3,
            deadline_seconds: None,
        }
    }
}

/// Resource requests and limits by resource name (`cpu`, `memory`).
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// Resources that the scheduler reserves for each container, as Kubernetes quantities such as `500m`, `2` or
    /// `16Gi`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, Quantity>,
    /// Resources that each container may not exceed, as Kubernetes quantities such as `500m`, `2` or `16Gi`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, Quantity>,
}

/// Kubernetes quantity: text such as `500m` or `16Gi`, or a whole number.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum Quantity {
    /// A number without a suffix, as in `cpu: 2`.
    Number(i64),
    /// A number with a suffix, or one in quotes.
    Text(String),
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// As the API server publishes those of pods, with a bound so that CEL rules can be costed.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true, "maxLength": 64})
    }
}

/// Toleration of taints.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Toleration {
    /// Key of the taint. By default all keys are tolerated, which requires `operator: Exists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 316))]
    pub key: Option<String>,
    /// How the taint is matched: Equal compares `value`, Exists matches any value. Defaults to Equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Equal", "Exists"]))]
    pub operator: Option<String>,
    /// Value of the taint. Only operator Equal reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect of the taint: NoSchedule, PreferNoSchedule or NoExecute. By default all effects are tolerated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["NoSchedule", "PreferNoSchedule", "NoExecute"]))]
    pub effect: Option<String>,
    /// How long a NoExecute taint is tolerated, in seconds. By default it is tolerated without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub toleration_seconds: Option<i64>,
}

/// Environment variable with either `value` or `secretKeyRef`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    /// Name of the environment variable, unique in the list.
    #[schemars(length(min = 1, max = 256), regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,
    /// Literal value. At most one of `value` and `secretKeyRef` may be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub value: Option<String>,
    /// Key of a Secret that contains the value. At most one of `value` and `secretKeyRef` may be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
}
