//! What a run's objects must hold, kind by kind.

use clap::Parser;
use serde_json::{Value, json};

use plumbline_crds::run::RunDocument;

use super::*;

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

fn settings() -> Settings {
    let arguments = ["plumbline", "--trainer-image=registry.example/trainer:1", "--progress-url=http://plumbline:8090"];
    Arguments::parse_from(arguments).settings
}

fn dataset(change: &Value) -> Resource {
    let mut spec = json!({
        "prompts": {"configMapRef": {"name": "prompts", "key": "p.jsonl"}},
        "generator": {"model": {"uri": "pvc://models/sft"}},
        "judges": [{"name": "j", "model": {"uri": "pvc://models/judge"}},
            {"name": "k", "endpoint": {"url": "http://h/v1", "model": "m", "apiKeySecretRef": {"name": "keys", "key": "api-key"}}}],
        "output": {"uri": "pvc://results/helpful"},
    });
    for (key, value) in change.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({"apiVersion": API_VERSION, "kind": "PreferenceDataset",
        "metadata": {"name": "helpful", "namespace": "team", "labels": {"a": "b"}}, "spec": spec}))
    .unwrap()
}

fn input(role: &str, location: Location) -> Input {
    Input { role: role.into(), name: location.to_string(), location, digest: String::new() }
}

fn built(resource: &Resource, job: &JobRef) -> Children {
    built_with(resource, job, "pvc://models/judge")
}

fn built_with(resource: &Resource, job: &JobRef, judge: &str) -> Children {
    built_to(resource, job, judge, "pvc://results/helpful")
}

fn built_to(resource: &Resource, job: &JobRef, judge: &str, output: &str) -> Children {
    built_in(resource, job, judge, output, None)
}

fn built_in(resource: &Resource, job: &JobRef, judge: &str, output: &str, cache: Option<&str>) -> Children {
    let cache = cache.map(|uri| Location::of_input(uri).unwrap());
    let inputs = [
        input("prompts", Location::ConfigMap { name: "prompts".into(), key: "p.jsonl".into() }),
        input("generator.model", Location::of_input("pvc://models/sft").unwrap()),
        input("judges[0].model", Location::of_input(judge).unwrap()),
    ];
    let output = Location::of_output(output).unwrap();
    let settings = settings();
    children(&Request {
        resource,
        uid: "u-1",
        job,
        accelerator_seconds: 7,
        inputs: &inputs,
        output: &output,
        cache: cache.as_ref(),
        settings: &settings,
    })
}

fn first() -> JobRef {
    JobRef { name: "helpful-label-0000000000000000-11111111".into(), attempt: 1, ..JobRef::default() }
}

fn job_json(change: &Value) -> Value {
    serde_json::to_value(built(&dataset(change), &first()).job).unwrap()
}

#[test]
fn a_pod_is_restricted_and_holds_no_credential_of_the_cluster() {
    let job = job_json(&json!({}));
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["enableServiceLinks"], false);
    assert_eq!(pod["restartPolicy"], "Never");
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let containers = pod["containers"].as_array().unwrap().iter().chain(pod["initContainers"].as_array().unwrap());
    for container in containers {
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false, "{}", container["name"]);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(container["image"], "registry.example/trainer:1");
    }
    let tokens: Vec<&Value> =
        pod["volumes"].as_array().unwrap().iter().filter(|v| v["projected"].is_object()).collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0]["projected"]["sources"][0]["serviceAccountToken"]["audience"], "plumbline.dev/progress");
}

#[test]
fn a_volume_is_mounted_once_and_written_only_where_the_output_is() {
    let job = job_json(&json!({}));
    let pod = &job["spec"]["template"]["spec"];
    let names: Vec<&str> = pod["volumes"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["claim-models", "claim-results", "input-prompts", "run", "tmp", "token"]);
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let writable: Vec<&str> =
        mounts.iter().filter(|m| m["readOnly"] != true).map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(writable, ["claim-results", "tmp"]);
    assert_eq!(mounts.len(), 6);
}

#[test]
fn secrets_are_named_and_never_held() {
    let children = built(
        &dataset(&json!({"compute": {"env": [
        {"name": "TOKEN", "secretKeyRef": {"name": "hub", "key": "token"}}, {"name": "PLAIN", "value": "x"},
        {"name": "PLUMBLINE_STALL_TIMEOUT_SECONDS", "value": "7200"}]}})),
        &first(),
    );
    let job = serde_json::to_value(&children.job).unwrap();
    let env = job["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
    let variable = |name: &str| env.iter().find(|v| v["name"] == name).unwrap().clone();
    let key = variable("PLUMBLINE_SECRET_KEYS_API_KEY");
    assert_eq!(key["valueFrom"]["secretKeyRef"], json!({"name": "keys", "key": "api-key"}));
    assert_eq!(variable("TOKEN")["valueFrom"]["secretKeyRef"]["name"], "hub");
    assert_eq!(variable("PLAIN")["value"], "x");
    let hung: Vec<&Value> = env.iter().filter(|v| v["name"] == "PLUMBLINE_STALL_TIMEOUT_SECONDS").collect();
    assert_eq!(hung, [&json!({"name": "PLUMBLINE_STALL_TIMEOUT_SECONDS", "value": "7200"})], "said once");
}

#[test]
fn what_goes_to_a_store_has_a_folder_of_the_pod_and_the_credentials_of_its_secret() {
    let output = json!({"output": {"uri": "s3://align/helpful", "credentialsSecretRef": {"name": "store"}}});
    let children = built_to(&dataset(&output), &first(), "hf://org/judge", "s3://align/helpful");
    let document: RunDocument = serde_yaml::from_str(&children.config_map.data.unwrap()["run.yaml"]).unwrap();
    assert_eq!(document.output, "/var/lib/plumbline/output/helpful");
    let store = document.store.unwrap();
    assert_eq!(store.artifact, "s3://align/helpful");
    let name = "helpful-label-0000000000000000";
    assert!(
        children.job.metadata.name.as_ref().unwrap().starts_with(name),
        "runs that measure other things share the folder"
    );
    assert_eq!(store.work.unwrap(), format!("s3://align/.helpful.work/{name}"));
    assert_eq!(document.work, format!("/var/lib/plumbline/output/{name}"));

    let job = serde_json::to_value(&children.job).unwrap();
    let pod = &job["spec"]["template"]["spec"];
    let volume = pod["volumes"].as_array().unwrap().iter().find(|v| v["name"] == "output").unwrap();
    assert_eq!(volume["emptyDir"], json!({"sizeLimit": "200Gi"}));
    let on_the_node = pod["volumes"].as_array().unwrap().iter().filter(|v| v["emptyDir"].is_object());
    let names: Vec<&Value> =
        on_the_node.filter(|v| v["emptyDir"]["sizeLimit"] == "200Gi").map(|v| &v["name"]).collect();
    assert_eq!(names, ["fetched", "output", "tmp"], "no volume may fill the node");
    let init = pod["initContainers"].as_array().unwrap();
    for container in [&pod["containers"][0], &init[0]] {
        assert_eq!(container["envFrom"], json!([{"secretRef": {"name": "store"}}]), "{}", container["name"]);
        let mounts = container["volumeMounts"].as_array().unwrap();
        let output = mounts.iter().find(|m| m["name"] == "output").unwrap();
        assert_eq!((&output["mountPath"], &output["readOnly"]), (&json!("/var/lib/plumbline/output"), &Value::Null));
    }
    let judge = &init[1];
    assert!(judge["name"] == "judge-0" && judge["envFrom"] == Value::Null, "a judge needs no credentials: {judge}");
}

#[test]
fn a_judge_with_a_model_is_a_native_sidecar_that_the_run_document_points_at() {
    let children = built(&dataset(&json!({})), &first());
    let job = serde_json::to_value(&children.job).unwrap();
    let sidecars = job["spec"]["template"]["spec"]["initContainers"].as_array().unwrap().clone();
    assert_eq!(sidecars.len(), 1, "the other judge has an endpoint");
    assert_eq!(sidecars[0]["restartPolicy"], "Always");
    assert_eq!(sidecars[0]["startupProbe"]["httpGet"]["port"], 8461);
    let document: Value = serde_yaml::from_str(&children.config_map.data.unwrap()["run.yaml"]).unwrap();
    assert_eq!(
        document["servedJudges"],
        json!([{"role": "judges[0].model", "url": "http://127.0.0.1:8461/v1", "model": "j"}])
    );
    assert_eq!(document["inputs"][0]["path"], "/etc/plumbline/inputs/prompts/p.jsonl");
    assert_eq!(document["output"], "/var/lib/plumbline/claims/results/helpful");
    assert_eq!(document["work"], "/var/lib/plumbline/claims/results/.helpful.work/helpful-label-0000000000000000");
    assert_eq!(document["resource"]["metadata"], json!({"name": "helpful", "namespace": "team"}));
}

#[test]
fn inputs_of_a_hub_are_fetched_before_the_judges_start_and_only_read_after_that() {
    let job = serde_json::to_value(built_with(&dataset(&json!({})), &first(), "hf://org/judge").job).unwrap();
    let pod = &job["spec"]["template"]["spec"];
    let init = pod["initContainers"].as_array().unwrap();
    assert_eq!((&init[0]["name"], &init[1]["name"]), (&json!("fetch"), &json!("judge-0")));
    assert_eq!(init[0]["restartPolicy"], Value::Null, "it has to end before the next one starts");
    assert_eq!(init[0]["args"], json!(["fetch", "--run", "/etc/plumbline/run/run.yaml"]));
    assert_eq!(init[0]["env"], pod["containers"][0]["env"], "it may need the same credentials");
    let fetched = |container: &Value| {
        let mounts = container["volumeMounts"].as_array().unwrap();
        mounts.iter().find(|m| m["name"] == "fetched").map(|m| m["readOnly"] == true).unwrap()
    };
    assert_eq!([&init[0], &init[1], &pod["containers"][0]].map(fetched), [false, true, true]);
    let rules = job["spec"]["podFailurePolicy"]["rules"].as_array().unwrap();
    let of: Vec<&Value> = rules.iter().map(|r| &r["onExitCodes"]["containerName"]).collect();
    assert_eq!(of, [&json!("trainer"), &json!("trainer"), &json!("fetch"), &json!("fetch"), &Value::Null]);
}

#[test]
fn the_cache_of_inputs_is_written_while_they_are_fetched_and_only_read_after_that() {
    let built = |judge, output: &str, cache| {
        let job = built_in(&dataset(&json!({})), &first(), judge, output, Some(cache)).job;
        serde_json::to_value(job).unwrap()["spec"]["template"]["spec"].take()
    };
    let mounts = |container: &Value, read_only: bool| -> Vec<String> {
        let mounts = container["volumeMounts"].as_array().unwrap().iter();
        let wanted = mounts.filter(|m| (m["readOnly"] == true) == read_only && m["name"] != "tmp");
        wanted.map(|m| m["name"].as_str().unwrap().to_owned()).collect()
    };
    let pod = built("hf://org/judge", "pvc://results/helpful", "pvc://cache/inputs");
    let variable = |container: &Value| {
        let env = container["env"].as_array().unwrap();
        env.iter().find(|v| v["name"] == "PLUMBLINE_INPUT_CACHE").map(|v| v["value"].as_str().unwrap().to_owned())
    };
    let [fetch, judge, trainer] = [&pod["initContainers"][0], &pod["initContainers"][1], &pod["containers"][0]];
    assert_eq!(variable(fetch).as_deref(), Some("/var/lib/plumbline/claims/cache/inputs"));
    assert_eq!(mounts(fetch, false), ["claim-cache", "claim-results", "fetched"]);
    assert_eq!(mounts(judge, true), ["claim-cache", "fetched"], "what was fetched leads into the cache");
    assert!(mounts(trainer, true).contains(&"claim-cache".into()), "{trainer}");
    let volumes = pod["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|v| v["persistentVolumeClaim"]["claimName"] == "cache"), "{volumes:?}");

    // One claim for everything is one volume, and the output in it can be written.
    let pod = built("hf://org/judge", "pvc://models/helpful", "pvc://models/cache");
    let names = pod["volumes"].as_array().unwrap().iter().filter(|v| v["name"] == "claim-models");
    assert_eq!(names.count(), 1);
    assert_eq!(mounts(&pod["containers"][0], false), ["claim-models"]);
    assert_eq!(mounts(&pod["initContainers"][1], true), ["claim-models", "fetched"]);
}

#[test]
fn failures_that_cannot_end_differently_fail_the_job_and_disruptions_do_not_count() {
    let job = job_json(&json!({}));
    let rules = job["spec"]["podFailurePolicy"]["rules"].as_array().unwrap();
    let actions: Vec<&str> = rules.iter().map(|r| r["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["FailJob", "Ignore", "Ignore"]);
    assert_eq!(rules[0]["onExitCodes"]["values"], json!([2, 3, 6, 7, 8, 9, 10]));
    assert_eq!(rules[1]["onExitCodes"]["values"], json!([75, 255]));
    assert_eq!(rules[2]["onPodConditions"][0]["type"], "DisruptionTarget");
    assert_eq!(job["spec"]["podReplacementPolicy"], "Failed");
}

#[test]
fn what_earlier_jobs_used_up_of_retries_and_time_is_not_given_again() {
    let compute = json!({"compute": {"maxRetries": 3, "deadlineSeconds": 100}});
    let retries = [("JudgeUnavailable".to_owned(), 2), ("NodeDisruption".to_owned(), 5)].into();
    let job = JobRef { retries, active_seconds: 60, attempt: 4, ..first() };
    let built = built(&dataset(&compute), &job).job;
    let spec = built.spec.clone().unwrap();
    assert_eq!((spec.backoff_limit, spec.active_deadline_seconds), (Some(1), Some(40)));
    assert_eq!(job::counted_before(&built), job);
    assert_eq!(job::accelerator_seconds_before(&built), 7);
}

#[test]
fn a_pod_with_accelerators_gets_the_image_that_can_use_them() {
    let with_cuda = "--accelerator-trainer-image=registry.example/trainer-cuda:1";
    let cpu_only = settings();
    let both = Arguments::parse_from(["plumbline", "--trainer-image=registry.example/trainer:1", with_cuda]).settings;
    let image = |settings: &Settings, compute: Value| -> String {
        let spec = dataset(&json!({"compute": compute})).spec;
        settings.image(spec.compute()).unwrap().clone()
    };
    assert_eq!(image(&both, json!({"accelerators": 1})), "registry.example/trainer-cuda:1");
    assert_eq!(image(&both, json!({})), "registry.example/trainer:1");
    assert_eq!(image(&both, json!({"accelerators": 1, "image": "own:2"})), "own:2");
    assert_eq!(image(&cpu_only, json!({"accelerators": 1})), "registry.example/trainer:1");
}

#[test]
fn compute_becomes_a_pod() {
    let job = job_json(&json!({"compute": {
        "accelerators": 2, "resources": {"requests": {"cpu": 4}, "limits": {"memory": "8Gi"}},
        "nodeSelector": {"gpu": "h100"}, "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "high", "runtimeClassName": "nvidia", "queueName": "team-a", "image": "own:2",
        "imagePullSecrets": [{"name": "pull"}], "serviceAccountName": "mine",
    }}));
    assert_eq!(job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"], "team-a");
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(
        pod["containers"][0]["resources"],
        json!({"requests": {"cpu": "4"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": "2"}})
    );
    assert_eq!(pod["initContainers"][0]["resources"]["limits"], json!({"memory": "8Gi"}), "a judge has no accelerator");
    assert_eq!(pod["nodeSelector"]["gpu"], "h100");
    assert_eq!(pod["tolerations"][0]["operator"], "Exists");
    assert_eq!((&pod["priorityClassName"], &pod["runtimeClassName"]), (&json!("high"), &json!("nvidia")));
    assert_eq!((&pod["serviceAccountName"], &pod["imagePullSecrets"][0]["name"]), (&json!("mine"), &json!("pull")));
    assert_eq!(pod["containers"][0]["image"], "own:2");
    let annotations = &job["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["plumbline.dev/accelerators"], "2", "what a pod holds, for counting its seconds");
}

#[test]
fn everything_belongs_to_its_resource() {
    let children = built(&dataset(&json!({})), &first());
    for metadata in [&children.service_account.unwrap().metadata, &children.config_map.metadata, &children.job.metadata]
    {
        let owner = &metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.uid.as_str(), owner.controller), ("u-1", Some(true)));
        assert_eq!(metadata.labels.as_ref().unwrap()[NAME_LABEL], "helpful");
        assert_eq!(metadata.namespace.as_deref(), Some("team"));
    }
}

#[test]
fn several_nodes_meet_at_the_first_pod() {
    let resource: Resource = serde_json::from_value(json!({"apiVersion": API_VERSION, "kind": "RewardModel",
        "metadata": {"name": "helpful", "namespace": "team"}, "spec": {
            "datasetRef": {"name": "d"}, "baseModel": {"uri": "pvc://models/sft"},
            "output": {"uri": "pvc://results/helpful"}, "compute": {"nodes": 3, "maxRetries": 5}}}))
    .unwrap();
    let name = "helpful-reward-0000000000000000-11111111";
    let children = built(&resource, &JobRef { name: name.into(), attempt: 1, ..JobRef::default() });
    let job = serde_json::to_value(&children.job).unwrap();
    let spec = &job["spec"];
    assert_eq!(
        (&spec["completionMode"], &spec["completions"], &spec["parallelism"]),
        (&json!("Indexed"), &json!(3), &json!(3))
    );
    assert_eq!(
        (&spec["backoffLimit"], &spec["podFailurePolicy"]),
        (&json!(0), &Value::Null),
        "one is lost: all begin again"
    );
    assert_eq!(spec["podReplacementPolicy"], "Failed", "no pod meets one of an earlier attempt");
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["subdomain"], "plumbline-helpful-reward");
    let env = pod["containers"][0]["env"].as_array().unwrap();
    let variable = |name: &str| env.iter().find(|v| v["name"] == name).unwrap()["value"].clone();
    assert_eq!(variable("MASTER_ADDR"), format!("{name}-0.plumbline-helpful-reward"));
    assert_eq!((variable("WORLD_SIZE"), variable("MASTER_PORT")), (json!("3"), json!("29500")));
    let attempt = env.iter().find(|v| v["name"] == "TORCHELASTIC_RUN_ID").unwrap();
    let of_the_job = "metadata.labels['batch.kubernetes.io/controller-uid']";
    assert_eq!(attempt["valueFrom"]["fieldRef"]["fieldPath"], of_the_job, "ranks of two attempts never meet");
    let service = serde_json::to_value(children.service.unwrap()).unwrap();
    assert_eq!(service["metadata"]["name"], "plumbline-helpful-reward");
    assert_eq!(service["metadata"]["ownerReferences"][0]["uid"], "u-1");
    assert_eq!(
        (&service["spec"]["clusterIP"], &service["spec"]["publishNotReadyAddresses"]),
        (&json!("None"), &json!(true))
    );
    let labels = spec["template"]["metadata"]["labels"].as_object().unwrap();
    assert!(service["spec"]["selector"].as_object().unwrap().iter().all(|(key, value)| labels.get(key) == Some(value)));
}

#[test]
fn one_pod_alone_has_no_service_and_no_place_among_others() {
    let children = built(&dataset(&json!({})), &first());
    assert_eq!(children.service, None);
    let job = serde_json::to_value(&children.job).unwrap();
    assert_eq!((&job["spec"]["completionMode"], &job["spec"]["completions"]), (&Value::Null, &json!(1)));
    let env = job["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    assert!(env.iter().all(|v| v["name"] != "WORLD_SIZE"));
}
