use super::Cpu;
use crate::backend::op::Embed;
use crate::backend::{Step, Token};
use crate::{Error, Result};

impl Cpu {
    pub(super) fn embed(&mut self, &Embed { table, scale, out }: &Embed, step: &Step) -> Result<()> {
        let table = &self.matrices[table.0];
        let out = &mut self.buffers[out.0];
        for (token, row) in step.tokens.iter().zip(out.chunks_exact_mut(table.columns)) {
            let token = match *token {
                Token::Known(token) => token,
                Token::Chosen(row) => {
                    let chosen = self.last_choice.get(row).copied();
                    chosen.ok_or_else(|| Error::internal(format!("nothing was chosen for row {row}")))?
                }
            };
            if token as usize >= table.rows {
                return Err(Error::invalid_argument(format!(
                    "token {token} is outside the vocabulary of {}",
                    table.rows
                )));
            }
            table.blocks.row(token as usize, row);
            if scale != 1.0 {
                row.iter_mut().for_each(|value| *value *= scale);
            }
        }
        Ok(())
    }
}
