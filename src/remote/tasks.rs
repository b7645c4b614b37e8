//! What Hugging Face's own inference servers do beside chat, and embeddings of any provider.
//!
//! `POST …/hf-inference/models/{model}` with `{inputs, parameters}`:
//! <https://huggingface.co/docs/inference-providers/providers/hf-inference>. `parameters` go there as
//! they are; which there are depends on the task.

use super::failure;
use super::{Answered, Client, HUGGING_FACE, cost};
use crate::http::{Failure, Request};
use crate::{Code, Error, Result};
use base64::prelude::{BASE64_STANDARD, Engine};
use futures_util::stream::{StreamExt, iter};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Fields of a task's `parameters`.
pub type Parameters = Map<String, Value>;

/// Documents that are asked for one by one at a time.
const AT_ONCE: usize = 4;

/// A class and how likely it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Label {
    /// As the model names it.
    pub label: String,
    /// From 0 to 1.
    pub score: f64,
}

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The file.
    pub bytes: Vec<u8>,
    /// `image/png`, `image/jpeg`, `image/webp` or `image/gif`.
    pub media_type: &'static str,
}

impl Image {
    /// For `src` and `href`.
    pub fn data_url(&self) -> String {
        format!("data:{};base64,{}", self.media_type, BASE64_STANDARD.encode(&self.bytes))
    }
}

/// How a picture is to be.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Picture {
    /// Pixels.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
    /// `16:9` or `1.5`: gives the side that is not given; with neither, about a megapixel.
    pub aspect_ratio: Option<String>,
    /// Repeats the same picture.
    pub seed: Option<u64>,
    /// Further parameters, such as `negative_prompt` or `num_inference_steps`.
    pub parameters: Parameters,
}

/// Texts as vectors.
#[derive(Debug, Clone, Default)]
pub struct Vectors {
    /// In the texts' order, each with its own status: one that fails does not fail the rest.
    pub each: Vec<Result<Vec<f32>>>,
    /// Tokens that were read, where the host counted them.
    pub tokens: Option<usize>,
}

impl Client {
    /// Continues a text.
    pub async fn generate_text(
        &self,
        model: &str,
        text: &str,
        parameters: &Parameters,
    ) -> Result<Answered<String>> {
        self.text_task(model, text, parameters, "generated_text").await
    }

    /// Says the same in fewer words.
    pub async fn summarize(
        &self,
        model: &str,
        text: &str,
        parameters: &Parameters,
    ) -> Result<Answered<String>> {
        self.text_task(model, text, parameters, "summary_text").await
    }

    /// Says the same in another language.
    pub async fn translate(
        &self,
        model: &str,
        text: &str,
        parameters: &Parameters,
    ) -> Result<Answered<String>> {
        self.text_task(model, text, parameters, "translation_text").await
    }

    /// What kind of text it is: the likeliest label first.
    pub async fn classify(
        &self,
        model: &str,
        text: &str,
        parameters: &Parameters,
    ) -> Result<Answered<Vec<Label>>> {
        let request = Request::post_json(self.task_url(model)?, &task(json!(text), parameters))?;
        self.fetch_paid(model, cost::tokens(text), request, |bytes, _| {
            let body = self.json(&bytes)?;
            // One list for a text, or a list of lists.
            let list = body.get(0).filter(|first| first.is_array()).unwrap_or(&body);
            let mut labels: Vec<Label> =
                Vec::deserialize(list).map_err(|_| self.misshapen("labels with scores"))?;
            labels.sort_by(|a, b| b.score.total_cmp(&a.score));
            Ok((labels, None))
        })
        .await
    }

    /// The vectors of documents, in their order. Where all together fail because of what they are,
    /// each is asked for alone. Of vectors for each token, as some models give them, it is the mean.
    pub async fn embed(&self, model: &str, documents: &[String]) -> Result<Answered<Vectors>> {
        if documents.is_empty() {
            return Ok(Answered { value: Vectors::default(), attempts: 0, waited_ms: 0 });
        }
        let mistaken = |error: &Error| {
            let of_one = matches!(error.code, Code::InvalidArgument | Code::ContextLengthExceeded);
            of_one && documents.len() > 1
        };
        match self.embed_together(model, documents).await {
            Err(error) if mistaken(&error) => {}
            together => return together,
        }
        let alone =
            |document| async move { self.embed_together(model, std::slice::from_ref(document)).await };
        let answers: Vec<_> = iter(documents).map(alone).buffered(AT_ONCE).collect().await;
        let mut whole = Answered { value: Vectors::default(), attempts: 1, waited_ms: 0 };
        for answer in answers {
            match answer {
                Ok(Answered { value: Vectors { each, tokens }, attempts, waited_ms }) => {
                    whole.attempts += attempts;
                    whole.waited_ms += waited_ms;
                    whole.value.each.extend(each);
                    let counted = whole.value.tokens.unwrap_or(0);
                    whole.value.tokens =
                        tokens.map(|tokens| counted.saturating_add(tokens)).or(whole.value.tokens);
                }
                Err(error) => whole.value.each.push(Err(error)),
            }
        }
        Ok(whole)
    }

    /// As many vectors as documents.
    async fn embed_together(&self, model: &str, documents: &[String]) -> Result<Answered<Vectors>> {
        let request = match self.task_base() {
            Some(_) => {
                let url = format!("{}/pipeline/feature-extraction", self.task_url(model)?);
                Request::post_json(url, &self.with_extra_body(task(json!(documents), &Map::new())))?
            }
            None => {
                let body = json!({ "model": model, "input": documents, "encoding_format": "float" });
                let Value::Object(body) = body else { unreachable!("it was written as an object") };
                Request::post_json(format!("{}/embeddings", self.base_url()), &self.with_extra_body(body))?
            }
        };
        let tokens = documents.iter().map(|document| cost::tokens(document)).sum();
        self.fetch_paid(model, tokens, request, |bytes, _| {
            let body = self.json(&bytes)?;
            let vectors = match body.get("data").and_then(Value::as_array) {
                Some(data) => in_order(data, documents.len()),
                None => body.as_array().and_then(|list| list.iter().map(vector).collect()),
            };
            let good = |vectors: &Vec<Vec<f32>>| {
                vectors.len() == documents.len() && vectors.iter().all(|v| !v.is_empty())
            };
            let vectors = vectors.filter(good).ok_or_else(|| self.misshapen("a vector for each text"))?;
            let tokens =
                body["usage"]["prompt_tokens"].as_u64().and_then(|tokens| usize::try_from(tokens).ok());
            Ok((Vectors { each: vectors.into_iter().map(Ok).collect(), tokens }, tokens))
        })
        .await
    }

    /// Makes a picture.
    pub async fn picture(&self, model: &str, prompt: &str, picture: &Picture) -> Result<Answered<Image>> {
        let mut parameters = picture.parameters.clone();
        if let Some((width, height)) = size(picture)? {
            parameters.insert("width".into(), width.into());
            parameters.insert("height".into(), height.into());
        }
        if let Some(seed) = picture.seed {
            parameters.insert("seed".into(), seed.into());
        }
        let request = Request::post_json(self.task_url(model)?, &task(json!(prompt), &parameters))?;
        let read = |bytes, _: &str| Ok((self.read_image(bytes)?, None));
        let Answered { value, attempts, waited_ms } =
            self.fetch_paid(model, cost::tokens(prompt), request, read).await?;
        let image = match value {
            Drawn::Image(image) => image,
            // It lies elsewhere, where the token is nobody's business.
            Drawn::At(url) => {
                let fetched = crate::http::send(Request::get(url)).await?;
                if !fetched.is_success() {
                    return Err(failure::of(fetched, None).await.error);
                }
                let bytes = fetched.bytes(super::LARGEST).await?;
                image(bytes).map_err(|_| self.misshapen("a picture"))?
            }
        };
        Ok(Answered { value: image, attempts, waited_ms })
    }

    fn read_image(&self, bytes: Vec<u8>) -> Result<Drawn, Failure> {
        let bytes = match image(bytes) {
            Ok(image) => return Ok(Drawn::Image(image)),
            Err(bytes) => bytes,
        };
        let body = self.json(&bytes)?;
        let lists = ["images", "data", "output"].iter().find_map(|field| body.get(field)?.get(0));
        let found = lists.or_else(|| body.get("image")).unwrap_or(&body);
        let text = ["b64_json", "base64", "url", "image"].iter().find_map(|field| found.get(field)?.as_str());
        let text = text.or(found.as_str()).ok_or_else(|| self.misshapen("a picture"))?;
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Drawn::At(text.to_owned()));
        }
        let data = text.split_once("base64,").map_or(text, |(_, data)| data);
        let image = BASE64_STANDARD.decode(data).ok().and_then(|bytes| image(bytes).ok());
        Ok(Drawn::Image(image.ok_or_else(|| self.misshapen("a picture"))?))
    }

    async fn text_task(
        &self,
        model: &str,
        text: &str,
        parameters: &Parameters,
        field: &str,
    ) -> Result<Answered<String>> {
        let request = Request::post_json(self.task_url(model)?, &task(json!(text), parameters))?;
        self.fetch_paid(model, cost::tokens(text), request, |bytes, _| {
            let body = self.json(&bytes)?;
            let text = body.get(0).unwrap_or(&body).get(field).and_then(Value::as_str);
            let text = text.ok_or_else(|| self.misshapen(&format!("`{field}`")))?;
            Ok((text.to_owned(), None))
        })
        .await
    }

    /// Where Hugging Face's tasks are, for a base address that ends in `/v1` and belongs to a router.
    fn task_base(&self) -> Option<String> {
        let root = self.base_url().strip_suffix("/v1")?;
        let routed = self.base_url() == HUGGING_FACE || self.config.hf_inference;
        routed.then(|| format!("{root}/hf-inference/models"))
    }

    fn task_url(&self, model: &str) -> Result<String> {
        let base = self.task_base().ok_or_else(|| {
            Error::invalid_argument(format!(
                "{} is not Hugging Face's router, which alone has this task; set hfInference for a relay to it",
                self.name()
            ))
        })?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
        if model.is_empty()
            || !model.bytes().all(plain)
            || model.split('/').any(|part| part.trim_matches('.').is_empty())
        {
            return Err(Error::invalid_argument(format!(
                "{model:?} is no model's name; they read owner/name"
            )));
        }
        Ok(format!("{base}/{model}"))
    }

    fn misshapen(&self, expected: &str) -> Error {
        Error::provider_error(format!("{}: the answer is not {expected}", self.host()))
    }
}

enum Drawn {
    Image(Image),
    At(String),
}

fn task(inputs: Value, parameters: &Parameters) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("inputs".into(), inputs);
    if !parameters.is_empty() {
        body.insert("parameters".into(), parameters.clone().into());
    }
    body
}

/// OpenAI's vectors say where they belong.
fn in_order(data: &[Value], count: usize) -> Option<Vec<Vec<f32>>> {
    let mut vectors = vec![Vec::new(); count];
    for (place, entry) in data.iter().enumerate() {
        let index = entry["index"].as_u64().map_or(place, |index| index as usize);
        *vectors.get_mut(index)? = vector(&entry["embedding"])?;
    }
    Some(vectors)
}

/// A vector, or the mean of one a token.
fn vector(value: &Value) -> Option<Vec<f32>> {
    let list = value.as_array()?;
    if !list.first()?.is_array() {
        return list.iter().map(|number| Some(number.as_f64()? as f32)).collect();
    }
    let tokens: Vec<Vec<f32>> = list.iter().map(vector).collect::<Option<_>>()?;
    let width = tokens.first()?.len();
    if tokens.iter().any(|token| token.len() != width) {
        return None;
    }
    let mean = |at: usize| tokens.iter().map(|token| token[at]).sum::<f32>() / tokens.len() as f32;
    Some((0..width).map(mean).collect())
}

/// Width and height in pixels, in multiples of 8 where they are computed.
fn size(picture: &Picture) -> Result<Option<(u32, u32)>> {
    const PIXELS: f64 = 1024.0 * 1024.0;
    let ratio = picture.aspect_ratio.as_deref().map(|text| {
        let (width, height) = text.split_once(':').unwrap_or((text, "1"));
        let ratio =
            width.trim().parse::<f64>().ok().zip(height.trim().parse::<f64>().ok()).map(|(w, h)| w / h);
        ratio.filter(|ratio| (0.1..=10.0).contains(ratio)).ok_or_else(|| {
            Error::invalid_argument(format!(
                "an aspect ratio of {text:?}; it is like 16:9, and from 1:10 to 10:1"
            ))
        })
    });
    let side = |pixels: f64| (pixels / 8.0).round().max(1.0) as u32 * 8;
    let size = match (picture.width, picture.height, ratio.transpose()?) {
        (None, None, None) => return Ok(None),
        (Some(width), Some(height), _) => (width, height),
        (Some(width), None, ratio) => (width, side(f64::from(width) / ratio.unwrap_or(1.0))),
        (None, Some(height), ratio) => (side(f64::from(height) * ratio.unwrap_or(1.0)), height),
        (None, None, Some(ratio)) => (side((PIXELS * ratio).sqrt()), side((PIXELS / ratio).sqrt())),
    };
    if !(1..=8192).contains(&size.0) || !(1..=8192).contains(&size.1) {
        return Err(Error::invalid_argument(format!(
            "a picture of {} × {}; sides are from 1 to 8192",
            size.0, size.1
        )));
    }
    Ok(Some(size))
}

/// The bytes as a picture, whatever they were called; the bytes again where they are none.
fn image(bytes: Vec<u8>) -> Result<Image, Vec<u8>> {
    let media_type = match bytes.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xFF, 0xD8, 0xFF, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        _ => return Err(bytes),
    };
    Ok(Image { bytes, media_type })
}
