//! OPT (Zhang et al., 2022): learned positions, `LayerNorm`, a ReLU MLP.

use super::shared::{self, Plain};
use super::{Family, names};
use crate::Result;
use crate::model::architecture::{Architecture, AttentionBias, LearnedPositions, NormPlacement, Residual};
use crate::model::config::keys::Keys;
use crate::model::norm::Norm;
use crate::model::weights::{NormSite, Projection, WeightId};

pub(super) static FAMILY: Family = Family {
    model_type: "opt",
    causal_lm: "OPTForCausalLM",
    classifier: "OPTForSequenceClassification",
    prefix: "model.",
    ignored: &[],
    reads: &[],
    architecture,
    gguf: None,
    name,
};

/// The embedding's rows before that of position 0.
const OFFSET: i64 = 2;

fn architecture(keys: &Keys) -> Result<Architecture> {
    let hidden = keys.required("hidden_size", 1, shared::WIDEST)?;
    let heads = keys.required("num_attention_heads", 1, shared::WIDEST)?;
    shared::require_whole_heads(keys, "hidden_size", hidden, heads)?;
    if keys.set("word_embed_proj_dim").is_some() && keys.required("word_embed_proj_dim", 1, shared::WIDEST)? != hidden {
        return Err(keys.unsupported("word_embed_proj_dim"));
    }
    let before = keys.flag_or("do_layer_norm_before", true)?;
    let final_norm = before && !keys.flag("_remove_final_layer_norm")?;
    let context = shared::context(keys, "max_position_embeddings")?;
    let plain = Plain {
        hidden,
        heads,
        inner: keys.required("ffn_dim", 1, shared::WIDEST)?,
        layers: shared::depth(keys, "num_hidden_layers")?,
        vocabulary: shared::vocabulary(keys)?,
        context,
        activation: shared::activation(keys, "activation_function", "relu")?,
        norm: Norm::Layer { eps: 1e-5 },
        tied: keys.flag_or("tie_word_embeddings", true)?,
    };
    let bias = keys.flag_or("enable_bias", true)?;
    let found = plain.architecture();
    shared::refuse_windows(keys, &found)?;
    Ok(Architecture {
        learned_positions: Some(LearnedPositions { rows: context + OFFSET, offset: OFFSET }),
        norm_placement: if before { NormPlacement::Before } else { NormPlacement::After },
        residual: if before { Residual::Sequential } else { Residual::NormOfSum },
        final_norm,
        attention_bias: if bias { AttentionBias::All } else { AttentionBias::None },
        mlp_bias: bias,
        ..found
    })
}

fn name(weight: WeightId) -> String {
    match weight {
        WeightId::Embedding => "model.decoder.embed_tokens.weight".to_owned(),
        WeightId::Positions => "model.decoder.embed_positions.weight".to_owned(),
        WeightId::FinalNorm => "model.decoder.final_layer_norm.weight".to_owned(),
        WeightId::FinalNormBias => "model.decoder.final_layer_norm.bias".to_owned(),
        WeightId::Head => "lm_head.weight".to_owned(),
        WeightId::Layer(layer, weight) => {
            let (module, what) = names::module_of(weight, norm, projection);
            format!("model.decoder.layers.{layer}.{module}.{what}")
        }
    }
}

fn norm(site: NormSite) -> &'static str {
    match site {
        NormSite::BeforeMlp | NormSite::AfterMlp => "final_layer_norm",
        _ => "self_attn_layer_norm",
    }
}

fn projection(projection: Projection) -> &'static str {
    match projection {
        Projection::Query | Projection::QueryKeyValue => "self_attn.q_proj",
        Projection::Key => "self_attn.k_proj",
        Projection::Value => "self_attn.v_proj",
        Projection::Output => "self_attn.out_proj",
        Projection::Up | Projection::Gate | Projection::GateUp => "fc1",
        Projection::Down => "fc2",
    }
}
