//! The two models of an evaluation. A model is as large as the device may be, so one of them is in memory at a time, and is
//! read again when it is its turn.

use std::path::PathBuf;

use tch::Device;

use plumbline_crds::training::Precision;

use crate::Result;
use crate::load::hugging_face::ModelFolder;
use crate::model::decoder::Decoder;
use crate::model::linear::Adapters;
use crate::model::view::ModelView;

/// The model before or after tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The model that was tuned, as it was.
    Before,
    /// The tuned model.
    After,
}

impl Which {
    /// Its name in progress reports and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// The model before, and the one after.
pub struct Sides {
    held: Option<Decoder>,
    is: Which,
    /// Where they are read from, before and after; none where one decoder is both, without and with its adapters.
    folders: Option<[PathBuf; 2]>,
    precision: Precision,
    device: Device,
}

impl Sides {
    /// A model without and with its adapters.
    pub fn of_adapters(model: Decoder, precision: Precision) -> Self {
        let device = model.device();
        Self { held: Some(model), is: Which::Before, folders: None, precision, device }
    }

    /// The models of two folders, of which the first is read already.
    pub fn of_folders(before: Decoder, folders: [PathBuf; 2], precision: Precision) -> Self {
        Self { folders: Some(folders), ..Self::of_adapters(before, precision) }
    }

    /// One of the models, read from its folder where the other one is held.
    ///
    /// # Errors
    /// Where its folder cannot be read.
    pub fn side(&mut self, which: Which) -> Result<ModelView<'_>> {
        let model = match (self.held.take(), &self.folders) {
            (Some(model), Some(_)) if self.is == which => model,
            (Some(model), None) => model,
            (other, folders) => {
                drop(other);
                let [before, after] = folders.as_ref().map_or_else(Default::default, Clone::clone);
                let folder = match which {
                    Which::Before => before,
                    Which::After => after,
                };
                ModelFolder::open(&folder)?.decoder(self.precision, self.device)?
            }
        };
        self.is = which;
        let adapters = match which {
            Which::Before => Adapters::Off,
            Which::After => Adapters::On,
        };
        Ok(ModelView { decoder: self.held.insert(model), adapters })
    }
}
