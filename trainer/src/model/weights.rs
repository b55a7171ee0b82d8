//! Ids of a decoder's weights, by function. Names in files depend on the family; ids do not, and their single
//! enumeration serves loading, saving, training, merging, importing and counting. Pure.

/// A weight of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WeightId {
    /// `[vocab, hidden]`: the token embedding.
    Embedding,
    /// A weight of the layer with this index, 0 being the first.
    Layer(usize, LayerWeight),
    /// `[hidden]`: the scale of the final norm.
    FinalNorm,
    /// `[vocab, hidden]`: the head, if it is not tied to the embedding.
    Head,
}

/// A weight of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerWeight {
    /// `[hidden]`: the scale of the norm before attention.
    InputNorm,
    /// `[out, in]`: a projection.
    Weight(Projection),
    /// `[out]`: the bias of a projection.
    Bias(Projection),
    /// `[head_dim]`: the scale of the norm of each query head.
    QueryNorm,
    /// `[head_dim]`: the scale of the norm of each key head.
    KeyNorm,
    /// `[hidden]`: the scale of the norm before the MLP.
    PostNorm,
}

impl LayerWeight {
    /// Every weight that a layer can have.
    pub fn all() -> impl Iterator<Item = Self> {
        let norms = [Self::InputNorm, Self::QueryNorm, Self::KeyNorm, Self::PostNorm];
        norms.into_iter().chain(Projection::ALL.into_iter().flat_map(|p| [Self::Weight(p), Self::Bias(p)]))
    }
}

/// A linear map of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Projection {
    /// Hidden states to queries.
    Query,
    /// Hidden states to keys.
    Key,
    /// Hidden states to values.
    Value,
    /// Attention output back to hidden states.
    Output,
    /// Hidden states to the MLP's gate.
    Gate,
    /// Hidden states to the MLP's inner width.
    Up,
    /// The MLP's inner width back to hidden states.
    Down,
}

impl Projection {
    /// Every projection, in the order of the forward pass.
    pub const ALL: [Self; 7] = [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Whether the projection is part of attention, not of the MLP.
    pub fn is_attention(self) -> bool {
        matches!(self, Self::Query | Self::Key | Self::Value | Self::Output)
    }
}
