//! Ids of a decoder's weights, by function. Names in files depend on the family; ids do not, and their single
//! enumeration serves loading, saving, training, merging, importing and counting. Pure.

/// A weight of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WeightId {
    /// `[vocab, hidden]`: the token embedding.
    Embedding,
    /// `[rows, hidden]`: the embedding of positions, if they are learned.
    Positions,
    /// A weight of the layer with this index, 0 being the first.
    Layer(usize, LayerWeight),
    /// `[hidden]`: the scale of the final norm.
    FinalNorm,
    /// `[hidden]`: the bias of the final norm.
    FinalNormBias,
    /// `[vocab, hidden]`: the head, if it is not tied to the embedding.
    Head,
}

/// A weight of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerWeight {
    /// The scale of a norm, as wide as what is normalised.
    Norm(NormSite),
    /// The bias of a norm.
    NormBias(NormSite),
    /// `[out, in]`, or `[in, out]` in families that store it transposed: a projection.
    Weight(Projection),
    /// `[out]`: the bias of a projection.
    Bias(Projection),
}

impl LayerWeight {
    /// Every weight that a layer can have.
    pub fn all() -> impl Iterator<Item = Self> {
        let norms = NormSite::ALL.into_iter().flat_map(|site| [Self::Norm(site), Self::NormBias(site)]);
        norms.chain(Projection::ALL.into_iter().flat_map(|p| [Self::Weight(p), Self::Bias(p)]))
    }
}

/// What a norm of a layer normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NormSite {
    /// The input of attention.
    BeforeAttention,
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// The output of attention.
    AfterAttention,
    /// The input of the MLP.
    BeforeMlp,
    /// The output of the MLP.
    AfterMlp,
}

impl NormSite {
    /// Every site, in the order of the forward pass.
    pub const ALL: [Self; 6] =
        [Self::BeforeAttention, Self::Query, Self::Key, Self::AfterAttention, Self::BeforeMlp, Self::AfterMlp];
}

/// A linear map of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Projection {
    /// Hidden states to queries, keys and values, in families that store these three as one.
    QueryKeyValue,
    /// Hidden states to queries.
    Query,
    /// Hidden states to keys.
    Key,
    /// Hidden states to values.
    Value,
    /// Attention output back to hidden states.
    Output,
    /// Hidden states to the MLP's gate and inner width, in families that store these two as one.
    GateUp,
    /// Hidden states to the MLP's gate.
    Gate,
    /// Hidden states to the MLP's inner width.
    Up,
    /// The MLP's inner width back to hidden states.
    Down,
}

impl Projection {
    /// Every projection, in the order of the forward pass.
    pub const ALL: [Self; 9] = [
        Self::QueryKeyValue,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::GateUp,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// Whether the projection is part of attention, not of the MLP.
    pub fn is_attention(self) -> bool {
        matches!(self, Self::QueryKeyValue | Self::Query | Self::Key | Self::Value | Self::Output)
    }
}
