//! The two models of an evaluation. A model is as large as the device may be, so one of them is in memory at a time, and is
//! read again when it is its turn.

use std::path::PathBuf;

use tch::Device;

use plumbline_crds::training::Precision;

use crate::Result;
use crate::load::hugging_face::ModelFolder;
use crate::model::decoder::Decoder;
use crate::model::linear::Adapters;

/// A model to compare.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The decoder.
    pub model: &'a Decoder,
    /// With or without its adapters.
    pub adapters: Adapters,
}

/// The model before, and the one after.
pub struct Sides {
    held: Option<Decoder>,
    is_after: bool,
    /// Where they are read from, before and after; none where one decoder is both, without and with its adapters.
    folders: Option<[PathBuf; 2]>,
    precision: Precision,
    device: Device,
}

impl Sides {
    /// A model without and with its adapters.
    pub fn of_adapters(model: Decoder, precision: Precision) -> Self {
        let device = model.device();
        Self { held: Some(model), is_after: false, folders: None, precision, device }
    }

    /// The models of two folders, of which the first is read already.
    pub fn of_folders(before: Decoder, folders: [PathBuf; 2], precision: Precision) -> Self {
        Self { folders: Some(folders), ..Self::of_adapters(before, precision) }
    }

    /// The model before.
    ///
    /// # Errors
    /// Where its folder cannot be read.
    pub fn before(&mut self) -> Result<Side<'_>> {
        self.side(false)
    }

    /// The model after.
    ///
    /// # Errors
    /// As [`Sides::before`].
    pub fn after(&mut self) -> Result<Side<'_>> {
        self.side(true)
    }

    fn side(&mut self, after: bool) -> Result<Side<'_>> {
        let model = match (self.held.take(), &self.folders) {
            (Some(model), Some(_)) if self.is_after == after => model,
            (Some(model), None) => model,
            (other, folders) => {
                drop(other);
                let [of_before, of_after] = folders.as_ref().map_or_else(Default::default, Clone::clone);
                let folder = if after { of_after } else { of_before };
                ModelFolder::open(&folder)?.decoder(self.precision, self.device)?
            }
        };
        self.is_after = after;
        let adapters = if after { Adapters::On } else { Adapters::Off };
        Ok(Side { model: self.held.insert(model), adapters })
    }
}
