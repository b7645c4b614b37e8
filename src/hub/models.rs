//! What the faces call: open, pull, look; with `find` and `cached`, all there is to do with models.

use super::client::Client;
use super::download::{Download, Part, Report, Sizes, Tally};
use super::find::{Found, FoundFile};
use super::model::{Model, Peek};
use super::remote::Remote;
use super::spec::Spec;
use crate::hash::sha256;
use crate::http::{self, Response};
use crate::progress::{Meter, Stage, Steady};
#[cfg(not(target_arch = "wasm32"))]
use crate::store::FolderStore;
use crate::store::{Joined, Key, Record, Store};
use crate::{Error, Result};
use futures_util::future::{Either, select};
use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// How often to look how far somebody else's download is.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Names, the Hub, and a store.
pub struct Models {
    pub(super) client: Rc<Client>,
    pub(super) store: Rc<dyn Store>,
    sizes: Sizes,
    /// What is being fetched: whoever opens it as well takes part in it.
    under_way: RefCell<HashMap<Key, Weak<Download>>>,
}

impl Models {
    /// Models that `client` finds and `store` keeps.
    pub fn new(client: Client, store: Rc<dyn Store>) -> Models {
        Models { client: Rc::new(client), store, sizes: Sizes::default(), under_way: RefCell::default() }
    }

    /// The user's cache, and the Hub as the user's other tools see it: see [`Client::from_environment`] and
    /// [`FolderStore::from_environment`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn from_environment() -> Result<Models> {
        Ok(Models::new(Client::from_environment()?, Rc::new(FolderStore::from_environment())))
    }

    /// Cuts files up differently.
    pub fn with_sizes(self, sizes: Sizes) -> Models {
        Models { sizes, ..self }
    }

    /// What a text names: see [`Spec`].
    pub fn name(&self, text: &str) -> Result<Spec> {
        self.client.name(text)
    }

    /// What several texts name that are one model: see [`Spec::of_files`].
    pub fn files(&self, texts: &[String]) -> Result<Spec> {
        self.client.files(texts)
    }

    /// The model called `spec`: from the store where it is there, else it is fetched while it is read.
    /// With `force` it is fetched anew, whatever is there; what is there stays until that is done.
    pub async fn open(&self, spec: &Spec, force: bool, report: Report) -> Result<Model> {
        let found = self.find_sized(spec, force).await?;
        self.begin(found, force, report).await
    }

    /// Fetches what `spec` names now, also where an older commit is there.
    pub async fn pull(&self, spec: &Spec, force: bool, report: Report) -> Result<Model> {
        let found = self.find_sized(spec, true).await?;
        let model = self.begin(found, force, report).await?;
        model.complete().await?;
        Ok(model)
    }

    /// A look at the model called `spec`.
    pub async fn peek(&self, spec: &Spec) -> Result<Joined<Peek>> {
        self.look(&self.find_sized(spec, false).await?).await
    }

    /// A look at files: what the store has of them, and the rest on their server, of which nothing is kept.
    pub async fn look(&self, found: &Found) -> Result<Joined<Peek>> {
        let mut parts = Vec::new();
        for FoundFile { key, len, url, .. } in &found.files {
            let record = self.store.get(key).await?.filter(|record| record.len == *len);
            let remote = Remote::new(self.client.clone(), key, url.clone(), *len);
            let record = record.unwrap_or_else(|| Record::none(key.clone(), *len));
            parts.push(Peek { store: self.store.clone(), record, remote });
        }
        Ok(Joined::new(parts))
    }

    /// What `collect` makes of all that is behind `url`, of which nothing is kept: where its server sends no parts. It is
    /// called again where that breaks off. `name` is for messages.
    pub async fn read_whole<T>(
        &self,
        name: &str,
        url: &str,
        collect: impl AsyncFnMut(Response) -> Result<T>,
    ) -> Result<T> {
        Remote::read_whole(&self.client, name, url, collect).await
    }

    /// The files that were found, from the store or, while they are read, from their server.
    pub async fn begin(&self, found: Found, force: bool, report: Report) -> Result<Model> {
        let Found { files, news } = found;
        let steady = Rc::new(Steady::default());
        let account = steady.clone();
        let report: Report = Rc::new(move |progress| report(account.follow(progress)));
        let mut places = Vec::new();
        let mut turns = Vec::new();
        for (index, FoundFile { key, len, .. }) in files.iter().enumerate() {
            key.check()?;
            // It would wait for itself.
            if files[..index].iter().any(|other| other.key.etag == key.etag) {
                return Err(Error::corrupt_model(format!(
                    "{}: two of its parts are the same file",
                    key.name()
                )));
            }
            let live = self.under_way.borrow().get(key).and_then(Weak::upgrade);
            let live = live.filter(|download| !download.is_whole());
            let whole = self.store.get(key).await?.is_some_and(|record| record.whole && record.len == *len);
            let (place, turn) = if live.is_some() || whole && !force {
                (key.clone(), None)
            } else {
                let turn = self.turn(key, &files, force, &report).await?;
                if force { self.make_way(key, turn).await? } else { (key.clone(), Some(turn)) }
            };
            places.push((place, *len));
            turns.push((live, turn));
        }
        // Perhaps those before us have fetched them.
        let records = self.store.begin(&places).await?;
        let all_there = records.iter().all(|record| record.whole);
        let mut parts = Vec::new();
        for ((FoundFile { key, len, url, .. }, record), (live, turn)) in
            files.into_iter().zip(records).zip(turns)
        {
            parts.push(live.unwrap_or_else(|| {
                let remote = Remote::new(self.client.clone(), &key, url, len);
                let (store, under_way) = (self.store.clone(), !record.whole);
                let download = Rc::new(Download::new(remote, store, key.clone(), record, turn, self.sizes));
                if under_way {
                    self.under_way.borrow_mut().insert(key, Rc::downgrade(&download));
                }
                download
            }));
        }
        self.under_way.borrow_mut().retain(|_, download| download.strong_count() > 0);
        let name = parts.first().map(|part| part.key().name().to_owned()).unwrap_or_default();
        let total = places.iter().map(|(_, len)| len).sum();
        // Where nothing else goes by that name, an interrupted download is found again by it.
        let news = match news {
            Some(news) if !news.replaces => {
                let kept = news.keep(&*self.store).await;
                // What is there can be read from a disk that nobody can write to.
                if !all_there {
                    kept?;
                }
                None
            }
            news => news.map(|news| (self.store.clone(), news)),
        };
        let parts = Joined::new(Part::all(Tally::new(&name, total, parts, report)));
        Ok(Model { parts, news: RefCell::new(news), steady })
    }

    /// Waits for one's turn to fetch a file. While another tab or process fetches it, `report` hears how far that is.
    async fn turn(
        &self,
        key: &Key,
        files: &[FoundFile],
        force: bool,
        report: &Report,
    ) -> Result<Box<dyn Any>> {
        let stored = async || -> Result<u64> {
            let mut stored = 0;
            for FoundFile { key, .. } in files {
                // An old copy says nothing about what comes beside it.
                let place = if force { &beside(key) } else { key };
                stored += self.store.get(place).await?.map_or(0, |record| record.written.total());
            }
            Ok(stored)
        };
        let total = files.iter().map(|file| file.len).sum();
        let meter = Meter::new(key.name(), total).resumed(stored().await?);
        let mut turn = self.store.lock(key);
        loop {
            match select(turn, Box::pin(http::sleep(BETWEEN_LOOKS))).await {
                Either::Left((turn, _)) => return turn,
                Either::Right((_, waiting)) => turn = waiting,
            }
            report(meter.at(Stage::Download, stored().await?))?;
        }
    }

    /// Where a file can be fetched anew: a whole copy stays until there is another, part of one does not.
    async fn make_way(&self, key: &Key, turn: Box<dyn Any>) -> Result<(Key, Option<Box<dyn Any>>)> {
        if self.store.get(key).await?.is_none_or(|record| !record.whole) {
            self.store.delete(key).await?;
            return Ok((key.clone(), Some(turn)));
        }
        let place = beside(key);
        let turns = (turn, self.store.lock(&place).await?);
        if key.sha256().is_none() {
            // Perhaps of another content: nobody could tell.
            self.store.delete(&place).await?;
        }
        Ok((place, Some(Box::new(turns))))
    }
}

/// The commit of what comes beside an old copy, which it will replace when it is whole.
const BESIDE: &str = "be51debe51debe51debe51debe51debe51debe51";

/// Where a file is while it comes beside its old copy.
pub(super) fn beside(key: &Key) -> Key {
    let etag = sha256(&key.etag)[..40].to_owned();
    Key { commit: BESIDE.to_owned(), etag, ..key.clone() }
}

/// Whether it is no model of its own.
pub(super) fn is_beside(key: &Key) -> bool {
    key.commit == BESIDE
}
