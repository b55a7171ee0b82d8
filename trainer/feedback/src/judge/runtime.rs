//! A resolved judge of the spec (IO: reads the environment and the lexicon): its model, endpoint and key.

use std::path::Path;

use jiff::civil::DateTime;
use plumbline_crds::judge::{Judge, JudgeApi};
use plumbline_crds::run::RunDocument;
use plumbline_crds::source::KeyRef;

use super::prompt::JudgePrompt;
use super::secret::Secret;
use crate::clock;
use crate::measure::Vader;
use crate::text::tokenizer::has_chat_template;
use crate::{Error, Result};

/// A judge that is ready to be asked.
#[derive(Debug)]
pub struct JudgeRuntime {
    /// The judge as specified.
    pub spec: Judge,
    /// Its spec field, for messages: `spec.judges[0]`.
    pub field: String,
    /// Its prompt.
    pub prompt: JudgePrompt,
    /// Its backend.
    pub backend: Backend,
    /// Identifies the answering model in question ids: it changes if another model would answer, but not if the same
    /// model is served at another port.
    pub identity: String,
}

/// What produces the answers.
#[derive(Debug)]
pub enum Backend {
    /// An OpenAI-compatible server.
    Endpoint(Target),
    /// A word list.
    Lexicon(Vader),
}

/// An endpoint.
#[derive(Clone, Debug)]
pub struct Target {
    /// Base URL including the version.
    pub url: String,
    /// Name of the model in requests.
    pub model: String,
    /// Key to send.
    pub key: Option<Secret>,
    /// The run's time, for a server that was started for this run, so that a restart does not change it.
    pub time: Option<DateTime>,
}

impl JudgeRuntime {
    /// Resolves the judge at `role` (`judges[0]`, `evaluation.judge`) of a run.
    pub fn resolve(judge: &Judge, role: &str, run: &RunDocument) -> Result<Self> {
        let field = format!("spec.{role}");
        let given = [judge.endpoint.is_some(), judge.model.is_some(), judge.lexicon.is_some()];
        if given.iter().filter(|g| **g).count() != 1 {
            return Err(Error::Config(format!("{field}: expected exactly one of endpoint, model and lexicon")));
        }
        let input = |part: &str| {
            let role = format!("{role}.{part}");
            run.input(&role).ok_or_else(|| Error::Config(format!("the run document has no input for spec.{role}")))
        };
        let mut prompt = JudgePrompt::new(judge, &field)?;
        let (backend, identity) = if let Some(endpoint) = &judge.endpoint {
            let key = endpoint.api_key_secret_ref.as_ref().map(|r| secret(r, &field)).transpose()?;
            let target = Target { url: endpoint.url.clone(), model: endpoint.model.clone(), key, time: None };
            let identity = format!("endpoint {} {}", target.url.trim_end_matches('/'), target.model);
            (Backend::Endpoint(target), identity)
        } else if judge.lexicon.is_some() {
            let lexicon = input("lexicon")?;
            prompt = JudgePrompt::response_alone("lexicon")?;
            (Backend::Lexicon(Vader::load(Path::new(&lexicon.path))?), format!("lexicon {}", lexicon.digest))
        } else {
            let role = format!("{role}.model");
            let served =
                run.served_judges.iter().find(|s| s.role == role).ok_or_else(|| {
                    Error::Config(format!("the run document has no servedJudges entry for spec.{role}"))
                })?;
            let (url, model) = (served.url.clone(), served.model.clone());
            let target = Target { url, model, key: None, time: Some(clock::now()) };
            let model = input("model")?;
            check_template(judge, &field, Path::new(&model.path))?;
            (Backend::Endpoint(target), format!("model {}", model.digest))
        };
        Ok(Self { spec: judge.clone(), field, prompt, backend, identity })
    }

    /// The model or word list for reports: as specified, without a local path.
    pub fn model_name(&self) -> String {
        match (&self.spec.endpoint, &self.spec.model, &self.spec.lexicon) {
            (Some(endpoint), ..) => endpoint.model.clone(),
            (_, Some(model), _) => model.uri.clone(),
            (_, _, Some(lexicon)) => lexicon.uri.clone(),
            _ => self.spec.name.clone(),
        }
    }
}

/// Rejects conversations for a model without a chat template. If its directory is in another container, its server
/// checks this.
fn check_template(judge: &Judge, field: &str, folder: &Path) -> Result<()> {
    if judge.api == JudgeApi::Completion || !folder.is_dir() || has_chat_template(folder)? {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{field}.api is Chat, but the model in {} has no chat template; set api: Completion, or use a chat model",
        folder.display()
    )))
}

fn secret(reference: &KeyRef, field: &str) -> Result<Secret> {
    let variable = reference.variable();
    match std::env::var(&variable) {
        Ok(key) if !key.trim().is_empty() => Ok(Secret::new(key.trim())),
        _ => Err(Error::Config(format!(
            "{field}.endpoint.apiKeySecretRef: expected the key in the environment variable {variable}, which is not set"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunDocument {
        serde_json::from_value(serde_json::json!({
            "resource": {"apiVersion": "plumbline.dev/v1alpha1", "kind": "PreferenceDataset", "metadata": {"name": "d"},
                "spec": {"prompts": {"inline": ["p"]}, "judges": [{"name": "j"}]}},
            "inputs": [{"role": "judges[0].model", "name": "m", "path": "/nowhere", "digest": "sha256:1"}],
            "servedJudges": [{"role": "judges[0].model", "url": "http://127.0.0.1:1/v1", "model": "m"}],
            "output": "/nowhere", "work": "/nowhere",
        }))
        .unwrap()
    }

    fn resolve(judge: serde_json::Value) -> Result<JudgeRuntime> {
        JudgeRuntime::resolve(&serde_json::from_value(judge).unwrap(), "judges[0]", &run())
    }

    #[test]
    fn a_missing_key_names_its_variable_and_its_field() {
        let error = resolve(serde_json::json!({"name": "j", "endpoint": {"url": "http://x/v1", "model": "m",
            "apiKeySecretRef": {"name": "no-such", "key": "key"}}}))
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("spec.judges[0].endpoint.apiKeySecretRef") && text.contains("PLUMBLINE_SECRET_NO_SUCH_KEY")
        );
        assert!(matches!(error, Error::Config(_)));
    }

    #[test]
    fn a_served_model_is_identified_by_its_digest_not_its_port() {
        let judge = resolve(serde_json::json!({"name": "j", "model": {"uri": "hf://org/m"}})).unwrap();
        assert_eq!(judge.identity, "model sha256:1");
        assert!(matches!(&judge.backend, Backend::Endpoint(t) if t.url == "http://127.0.0.1:1/v1"));
        assert_eq!(judge.model_name(), "hf://org/m");
    }

    #[test]
    fn a_judge_with_two_backends_is_rejected() {
        let both =
            serde_json::json!({"name": "j", "lexicon": {"uri": "x"}, "endpoint": {"url": "http://x", "model": "m"}});
        assert!(resolve(both).unwrap_err().to_string().contains("exactly one of"));
        assert!(resolve(serde_json::json!({"name": "j"})).unwrap_err().to_string().contains("spec.judges[0]"));
    }
}
