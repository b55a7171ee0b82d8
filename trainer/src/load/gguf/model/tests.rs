use super::super::header::tests::Writer;
use super::*;

/// A model of one layer: hidden 4, 2 heads of 2 over 1 key-value head, feed-forward 3, 5 tokens.
pub(crate) fn metadata() -> Writer {
    Writer::default()
        .str("general.architecture", "llama")
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 16)
        .u32("llama.embedding_length", 4)
        .u32("llama.feed_forward_length", 3)
        .u32("llama.attention.head_count", 2)
        .u32("llama.attention.head_count_kv", 1)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .u32("tokenizer.ggml.eos_token_id", 2)
}

pub(crate) fn tensors(mut writer: Writer) -> Writer {
    for (name, shape) in [
        ("token_embd", [5, 4].as_slice()),
        ("output_norm", &[4]),
        ("blk.0.attn_norm", &[4]),
        ("blk.0.attn_q", &[4, 4]),
        ("blk.0.attn_k", &[2, 4]),
        ("blk.0.attn_v", &[2, 4]),
        ("blk.0.attn_output", &[4, 4]),
        ("blk.0.ffn_norm", &[4]),
        ("blk.0.ffn_gate", &[3, 4]),
        ("blk.0.ffn_up", &[3, 4]),
        ("blk.0.ffn_down", &[4, 3]),
    ] {
        let values: Vec<f32> = (0..shape.iter().product::<u64>()).map(|i| i as f32 / 8.0).collect();
        writer = writer.f32s(&format!("{name}.weight"), shape, &values);
    }
    writer
}

/// A model of one layer of another family: hidden 4, 2 heads of 6 over 1 key-value head.
fn qwen(family: &str, more: &[(&str, &[u64])]) -> Vec<u8> {
    let key = |name: &str| format!("{family}.{name}");
    let mut writer = Writer::default()
        .str("general.architecture", family)
        .u32(&key("block_count"), 1)
        .u32(&key("context_length"), 16)
        .u32(&key("embedding_length"), 4)
        .u32(&key("feed_forward_length"), 3)
        .u32(&key("attention.head_count"), 2)
        .u32(&key("attention.head_count_kv"), 1)
        .u32(&key("attention.key_length"), 6)
        .u32(&key("attention.value_length"), 6)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-6)
        .f32(&key("rope.freq_base"), 1e6);
    let usual: [(&str, &[u64]); 11] = [
        ("token_embd.weight", &[5, 4]),
        ("output_norm.weight", &[4]),
        ("blk.0.attn_norm.weight", &[4]),
        ("blk.0.attn_q.weight", &[12, 4]),
        ("blk.0.attn_k.weight", &[6, 4]),
        ("blk.0.attn_v.weight", &[6, 4]),
        ("blk.0.attn_output.weight", &[4, 12]),
        ("blk.0.ffn_norm.weight", &[4]),
        ("blk.0.ffn_gate.weight", &[3, 4]),
        ("blk.0.ffn_up.weight", &[3, 4]),
        ("blk.0.ffn_down.weight", &[4, 3]),
    ];
    for (name, shape) in usual.iter().chain(more) {
        writer = writer.f32s(name, shape, &vec![0.5; shape.iter().product::<u64>() as usize]);
    }
    writer.finish()
}

#[test]
fn qwen_files_have_biases_and_head_norms_and_rows_in_order() {
    let biases: [(&str, &[u64]); 3] =
        [("blk.0.attn_q.bias", &[12]), ("blk.0.attn_k.bias", &[6]), ("blk.0.attn_v.bias", &[6])];
    let norms: [(&str, &[u64]); 2] = [("blk.0.attn_q_norm.weight", &[6]), ("blk.0.attn_k_norm.weight", &[6])];
    for (family, more, name) in [
        ("qwen2", biases.as_slice(), "model.layers.0.self_attn.k_proj.bias"),
        ("qwen3", norms.as_slice(), "model.layers.0.self_attn.k_norm.weight"),
    ] {
        let model = read_bytes(&qwen(family, more)).unwrap();
        assert_eq!((&model.config["model_type"], &model.config["head_dim"]), (&json!(family), &json!(6)));
        assert_eq!(model.config["rope_theta"], json!(1e6));
        assert_eq!(model.tensors.len(), 11 + more.len());
        assert!(model.tensors.iter().any(|tensor| tensor.name == name), "{family}");
        assert!(model.tensors.iter().all(|tensor| tensor.interleaved_heads.is_none()), "{family}");
        let missing = read_bytes(&qwen(family, &more[1..])).unwrap_err().to_string();
        assert!(missing.contains(&format!("the tensor {} is missing", more[0].0)), "{missing}");
    }
    // A Qwen3 with biases is rejected because of its tensors, as its metadata does not mention biases.
    let biased = read_bytes(&qwen("qwen3", &[norms.as_slice(), biases.as_slice()].concat())).unwrap_err().to_string();
    assert!(biased.contains("blk.0.attn_k.bias"), "{biased}");
}

fn read_bytes(bytes: &[u8]) -> Result<GgufModel, ModelError> {
    read(&Header::parse(&mut &bytes[..], bytes.len() as u64).unwrap())
}

#[test]
fn a_file_without_an_output_layer_has_tied_embeddings() {
    let llama = read_bytes(&tensors(metadata()).finish()).unwrap();
    assert_eq!(llama.config["tie_word_embeddings"], json!(true));
    assert_eq!(llama.config["rms_norm_eps"], json!(1e-5));
    assert_eq!(llama.config["head_dim"], json!(2));
    assert_eq!(llama.config["eos_token_id"], json!(2));
    assert!(!llama.config.contains_key("bos_token_id"));
    assert_eq!(llama.tensors.len(), 11);
    let output = tensors(metadata()).f32s("output.weight", &[5, 4], &[0.0; 20]).finish();
    let llama = read_bytes(&output).unwrap();
    assert_eq!(llama.config["tie_word_embeddings"], json!(false));
    assert_eq!(llama.tensors[11].name, "lm_head.weight");
}

#[test]
fn only_queries_and_keys_are_interleaved() {
    let llama = read_bytes(&tensors(metadata()).finish()).unwrap();
    let interleaved: Vec<(&str, usize)> =
        llama.tensors.iter().filter_map(|t| Some((t.name.as_str(), t.interleaved_heads?))).collect();
    assert_eq!(
        interleaved,
        [("model.layers.0.self_attn.q_proj.weight", 2), ("model.layers.0.self_attn.k_proj.weight", 1)]
    );
}

#[test]
fn rows_of_a_pair_move_half_a_head_apart() {
    // Two heads of four rows, one column. In the file the two halves of each head are interleaved.
    let file = [0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0];
    assert_eq!(unpermute(&file, 2, 1), [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]);
    let wide: Vec<f32> = file.iter().flat_map(|x| [*x, -x]).collect();
    assert_eq!(unpermute(&wide, 2, 2)[2..6], [1.0, -1.0, 2.0, -2.0]);
}

#[test]
fn an_absurd_size_is_rejected_before_it_is_used() {
    let with = |key: &str, value: u64| {
        let mut writer =
            Writer::default().str("general.architecture", "llama").f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        for (name, usual) in [
            ("llama.block_count", 1),
            ("llama.context_length", 16),
            ("llama.embedding_length", 4),
            ("llama.feed_forward_length", 3),
            ("llama.attention.head_count", 2),
            ("llama.attention.head_count_kv", 1),
            ("llama.attention.key_length", 2),
            ("llama.rope.dimension_count", 2),
        ] {
            writer = writer.u64(name, if name == key { value } else { usual });
        }
        read_bytes(&tensors(writer).finish())
    };
    assert!(with("none", 0).is_ok());
    for key in [
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.attention.key_length",
        "llama.rope.dimension_count",
    ] {
        for value in [0, (1 << 62) + 2, (1 << 63) + 16, u64::MAX, 1 << 32, (1 << 32) + 2] {
            assert!(with(key, value).is_err(), "{key} {value}");
        }
    }
}

#[test]
fn inconsistent_sizes_are_rejected() {
    let usual = |epsilon: f32, base: f32| {
        let writer = Writer::default()
            .str("general.architecture", "llama")
            .u32("llama.block_count", 1)
            .u32("llama.context_length", 16)
            .u32("llama.embedding_length", 4)
            .u32("llama.feed_forward_length", 3)
            .u32("llama.attention.head_count", 2)
            .u32("llama.attention.head_count_kv", 1)
            .f32("llama.attention.layer_norm_rms_epsilon", epsilon)
            .f32("llama.rope.freq_base", base);
        read_bytes(&tensors(writer).finish())
    };
    assert!(usual(1e-5, 1e4).is_ok());
    for bad in [f32::NAN, f32::INFINITY, -1.0, 0.0] {
        assert!(usual(bad, 1e4).unwrap_err().to_string().contains("rms_norm_eps"));
        assert!(usual(1e-5, bad).unwrap_err().to_string().contains("rope_theta"));
    }
}

#[test]
fn models_that_would_be_imported_incorrectly_are_rejected_by_name() {
    let refusal = |bytes: Vec<u8>| read_bytes(&bytes).unwrap_err().to_string();
    let experts = Writer::default().str("general.architecture", "qwen2moe").finish();
    assert!(refusal(experts).contains("unsupported architecture qwen2moe; supported are llama"));
    let experts = tensors(metadata().u32("llama.expert_count", 8)).finish();
    assert!(refusal(experts).contains("8 experts"));
    let scaled = tensors(metadata().str("llama.rope.scaling.type", "yarn")).finish();
    assert!(refusal(scaled).contains("scaled (yarn)"));
    let partial = tensors(metadata().u32("llama.rope.dimension_count", 1)).finish();
    assert!(refusal(partial).contains("cover 1 of 2"));
    let bias = tensors(metadata()).f32s("blk.0.attn_q.bias", &[4], &[0.0; 4]).finish();
    assert!(refusal(bias).contains("blk.0.attn_q.bias"));
    let missing = metadata().f32s("token_embd.weight", &[5, 4], &[0.0; 20]).finish();
    assert!(refusal(missing).contains("blk.0.attn_norm.weight is missing"));
    let misshapen = metadata().f32s("token_embd.weight", &[5, 3], &[0.0; 15]).finish();
    assert!(refusal(misshapen).contains("has shape [5, 3]; the metadata specifies [5, 4]"));
    let split = tensors(metadata().entry("split.count", 2, &3u16.to_le_bytes())).finish();
    assert!(refusal(split).contains("one of 3 files of a split model (split.count)"));
    let unknown = tensors(metadata().f32("llama.rope.scale_linear", 4.0)).finish();
    assert!(refusal(unknown).contains("llama.rope.scale_linear"));
    let rows = tensors(metadata().u32("llama.vocab_size", 6)).finish();
    assert!(refusal(rows).contains("llama.vocab_size is 6 and token_embd.weight has 5 rows"));
    let tokens = tensors(metadata().strs("tokenizer.ggml.tokens", &["a", "b", "c", "d", "e", "f"])).finish();
    assert!(refusal(tokens).contains("token 5 (\"f\") is outside the vocabulary"));
    let odd = Writer::default().str("general.architecture", "llama").str("llama.embedding_length", "four").finish();
    assert!(refusal(odd).contains("llama.embedding_length should be a non-negative integer"));
}
