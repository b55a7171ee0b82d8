//! The weights of a decoder by what they do. Names in files belong to a family; ids are the same in all of them, and the
//! one list of them serves loading, saving, training, merging, importing and counting. Pure.

/// A weight of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WeightId {
    /// `[vocab, hidden]`: the token embedding.
    Embedding,
    /// A weight of the layer with this index, 0 being read first.
    Layer(usize, LayerWeight),
    /// `[hidden]`: the scale of the final norm.
    FinalNorm,
    /// `[vocab, hidden]`: the head, where it is not the embedding.
    Head,
}

/// A weight of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerWeight {
    /// `[hidden]`: the scale of the norm before attention.
    InputNorm,
    /// `[out, in]`: a projection.
    Weight(Projection),
    /// `[out]`: what a projection adds.
    Bias(Projection),
    /// `[head_dim]`: the scale of the norm of each query head.
    QueryNorm,
    /// `[head_dim]`: the scale of the norm of each key head.
    KeyNorm,
    /// `[hidden]`: the scale of the norm before the MLP.
    PostNorm,
}

impl LayerWeight {
    /// Every weight that a layer of some architecture has.
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
    /// What was attended to, back to hidden states.
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

    /// Whether it is part of attention; of the MLP otherwise.
    pub fn is_attention(self) -> bool {
        matches!(self, Self::Query | Self::Key | Self::Value | Self::Output)
    }
}
