//! pco in its wrapped form: each block has its own chunk meta and page, and no file header.

use metricsdb_model::Samples;
use pco::ChunkConfig;
use pco::wrapped::{FileCompressor, FileDecompressor};

use crate::data::Block;
use crate::measure::{Codec, Size};

pub struct Pco {
    level: usize,
    file: FileDecompressor,
}

impl Pco {
    pub fn new(level: usize) -> Pco {
        let mut header = Vec::new();
        FileCompressor::default().write_header(&mut header).unwrap();
        let (file, _) = FileDecompressor::new(&header[..]).unwrap();
        Pco { level, file }
    }
}

impl Codec for Pco {
    type Coded = Vec<u8>;
    const TIMES: bool = false;

    fn name(&self) -> String {
        format!("pco{}", self.level)
    }

    fn encode(&self, block: Block) -> Vec<u8> {
        let values: Vec<f64> = block.bits.iter().map(|&b| f64::from_bits(b)).collect();
        let config = ChunkConfig::default().with_compression_level(self.level);
        let mut chunk = FileCompressor::default().chunk_compressor(&values, &config).unwrap();
        let mut bytes = Vec::new();
        chunk.write_meta(&mut bytes).unwrap();
        chunk.write_page(0, &mut bytes).unwrap();
        bytes
    }

    fn decode(&self, bytes: &Vec<u8>, count: usize, out: &mut Samples) {
        let (mut chunk, rest) = self.file.chunk_decompressor::<f64, _>(&bytes[..]).unwrap();
        let mut page = chunk.page_decompressor(rest, count).unwrap();
        out.values.resize(count, 0.0);
        page.read(&mut out.values).unwrap();
    }

    fn size(&self, bytes: &Vec<u8>, _: Block) -> Size {
        Size { values: bytes.len() as f64, ..Size::default() }
    }
}
