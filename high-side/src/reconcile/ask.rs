//! Which pages are asked for, so that every record of a stretch of time is had once.
//!
//! Offsets move while records arrive, are deleted, or have equal times. So time is cut into windows so
//! short that all records of one fit on one page; offsets are used only inside a single second that
//! has more than a page of them, or where the other side does not respect windows.

use std::collections::HashSet;

use shared::record::Stream;

use super::answer::Page;
use super::error::ReconcileError;

/// What gives pages: Portainer, or a test.
pub(super) trait Pages {
    /// The records of a stream from one second to another, both included, the newest first, without
    /// the first `offset` ones, and no more than `limit`.
    async fn page(
        &mut self,
        stream: Stream,
        window: (i64, i64),
        offset: u64,
        limit: u32,
    ) -> Result<Page, ReconcileError>;

    /// Where it is asked, for messages.
    fn place(&self) -> String;
}

/// Walks over the records of one stream.
pub(super) struct Walk {
    stream: Stream,
    limit: u32,
    /// What is still to be asked for, the earliest on top.
    windows: Vec<(i64, i64)>,
    offsets: Option<Offsets>,
    /// Answers that were too long to be read.
    too_long: u32,
    /// What the operator should know.
    pub(super) notes: Vec<String>,
}

/// A page, and which of its records were not given before.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) page: Page,
    pub(super) fresh: Vec<usize>,
}

/// A window whose records do not fit on one page.
struct Offsets {
    window: (i64, i64),
    next: u64,
    limit: u32,
    total: Option<u64>,
    seen: HashSet<u64>,
    pass: u32,
}

impl Walk {
    /// Walks over a stretch of time, both ends included.
    pub(super) fn new(stream: Stream, from: i64, to: i64, page_size: u32) -> Self {
        let windows = if from <= to { vec![(from, to)] } else { Vec::new() };
        Self { stream, limit: page_size, windows, offsets: None, too_long: 0, notes: Vec::new() }
    }

    /// The next page, or that there is no more.
    pub(super) async fn next<P: Pages>(
        &mut self,
        pages: &mut P,
    ) -> Result<Option<Step>, ReconcileError> {
        loop {
            if self.offsets.is_some() {
                if let Some(step) = self.next_by_offset(pages).await? {
                    return Ok(Some(step));
                }
                continue;
            }
            let Some(window) = self.windows.pop() else { return Ok(None) };
            if let Some(step) = self.whole_window(pages, window).await? {
                return Ok(Some(step));
            }
        }
    }

    /// All records of a window, if one page holds them; otherwise the window is cut in two.
    async fn whole_window<P: Pages>(
        &mut self,
        pages: &mut P,
        window: (i64, i64),
    ) -> Result<Option<Step>, ReconcileError> {
        let asked = pages.page(self.stream, wide(window), 0, self.limit).await;
        let mut respects_windows = true;
        match asked {
            Ok(page) => {
                respects_windows = page.seconds().all(|second| is_in(second, wide(window)));
                if respects_windows && self.is_all(pages, &page, window).await? {
                    let fresh = page.within(window);
                    return Ok((!fresh.is_empty()).then_some(Step { page, fresh }));
                }
            }
            Err(err) => self.bear(err)?,
        }
        let (from, to) = window;
        if respects_windows && from < to {
            let middle = from + (to - from) / 2;
            self.windows.push((middle + 1, to));
            self.windows.push((from, middle));
        } else {
            self.offsets = Some(Offsets {
                window,
                next: 0,
                limit: self.limit,
                total: None,
                seen: HashSet::new(),
                pass: 1,
            });
        }
        Ok(None)
    }

    /// An answer that is too long is asked for again in parts; but who gives nothing else is given up.
    fn bear(&mut self, err: ReconcileError) -> Result<(), ReconcileError> {
        self.too_long += 1;
        if is_too_much(&err) && self.too_long <= TOO_LONG_MAX { Ok(()) } else { Err(err) }
    }

    /// Whether a first page holds all that there is.
    async fn is_all<P: Pages>(
        &self,
        pages: &mut P,
        page: &Page,
        window: (i64, i64),
    ) -> Result<bool, ReconcileError> {
        let count = page.items.len() as u64;
        if count == 0 {
            return Ok(true);
        }
        if let Some(total) = page.total {
            return Ok(count >= total);
        }
        if count >= u64::from(self.limit) {
            return Ok(false);
        }
        // A bare list does not say how long it is, and the other side may give fewer than were asked for.
        let next = match pages.page(self.stream, wide(window), count, self.limit).await {
            Ok(next) => next,
            Err(err) if is_too_much(&err) => return Ok(false),
            Err(err) => return Err(err),
        };
        let known: HashSet<u64> = page.items.iter().map(|item| item.print).collect();
        Ok(next.items.iter().all(|item| known.contains(&item.print)))
    }

    /// The next page of a window that is walked by offsets; `None` when it gives nothing new.
    async fn next_by_offset<P: Pages>(
        &mut self,
        pages: &mut P,
    ) -> Result<Option<Step>, ReconcileError> {
        let Some(offsets) = &self.offsets else { return Ok(None) };
        let (window, next, limit) = (wide(offsets.window), offsets.next, offsets.limit);
        let page = match pages.page(self.stream, window, next, limit).await {
            Ok(page) => page,
            Err(err) => {
                let what = err.to_string();
                self.bear(err)?;
                let Some(offsets) = &mut self.offsets else { return Ok(None) };
                if offsets.limit > 1 {
                    offsets.limit /= 2;
                } else {
                    offsets.next += 1;
                    self.notes.push(format!("a record was left out: {what}"));
                }
                return Ok(None);
            }
        };
        let Some(offsets) = &mut self.offsets else { return Ok(None) };
        let count = page.items.len() as u64;
        offsets.next += count;
        offsets.total = page.total;
        let new = |item: &usize| offsets.seen.insert(page.items[*item].print);
        let fresh: Vec<usize> = (0..page.items.len()).filter(new).collect();
        let ended = if let Some(total) = page.total {
            count == 0 || offsets.next >= total
        } else {
            if count >= u64::from(offsets.limit) && fresh.is_empty() {
                return Err(ReconcileError::Paging { url: pages.place() });
            }
            fresh.is_empty()
        };
        if ended {
            // Records with equal times may have changed places between two pages.
            let short = offsets.total.is_some_and(|total| (offsets.seen.len() as u64) < total);
            if short && offsets.pass < PASSES_MAX {
                offsets.pass += 1;
                offsets.next = 0;
            } else {
                if short {
                    self.notes.push(format!(
                        "{} says that it has {} records of one time, and gave {}",
                        pages.place(),
                        offsets.total.unwrap_or_default(),
                        offsets.seen.len()
                    ));
                }
                let window = offsets.window;
                self.offsets = None;
                return Ok(step_within(page, fresh, window));
            }
        }
        let window = offsets.window;
        Ok(step_within(page, fresh, window))
    }
}

fn step_within(page: Page, fresh: Vec<usize>, window: (i64, i64)) -> Option<Step> {
    let within: HashSet<usize> = page.within(window).into_iter().collect();
    let fresh: Vec<usize> = fresh.into_iter().filter(|at| within.contains(at)).collect();
    (!fresh.is_empty()).then_some(Step { page, fresh })
}

impl Page {
    fn seconds(&self) -> impl Iterator<Item = i64> + '_ {
        self.items.iter().filter_map(|item| Some(item.sighting.ok()?.second))
    }

    /// The records in a window; what has no time is given, too, to be counted.
    fn within(&self, window: (i64, i64)) -> Vec<usize> {
        let inside = |at: &usize| {
            self.items[*at].sighting.is_ok_and(|sighting| is_in(sighting.second, window))
                || self.items[*at].sighting.is_err()
        };
        (0..self.items.len()).filter(inside).collect()
    }
}

fn is_in(second: i64, (from, to): (i64, i64)) -> bool {
    (from..=to).contains(&second)
}

/// Both ends are meant to be included; asking for a second more on each side costs little and holds
/// where one is not.
fn wide((from, to): (i64, i64)) -> (i64, i64) {
    (from - 1, to + 1)
}

fn is_too_much(err: &ReconcileError) -> bool {
    matches!(err, ReconcileError::TooLarge { .. })
}

/// So many answers in one walk may be too long to be read: enough to find one such second and to make
/// pages as small as one record.
const TOO_LONG_MAX: u32 = 64;

/// How often a second is read whose records are fewer than it says.
const PASSES_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use proptest::prelude::*;
    use shared::json::Tape;

    use super::*;

    /// A Portainer in a few lines.
    #[expect(clippy::struct_excessive_bools, reason = "each is a habit of its own")]
    struct Fake {
        seconds: Vec<i64>,
        bare: bool,
        /// It gives no more than this at once, whatever is asked for.
        cap: usize,
        respects_windows: bool,
        respects_offsets: bool,
        includes_ends: bool,
        requests: usize,
        /// A record that comes in with each request.
        arriving: Option<i64>,
        prints: RandomState,
    }

    impl Fake {
        fn of(seconds: &[i64]) -> Self {
            Self {
                seconds: seconds.to_vec(),
                bare: false,
                cap: usize::MAX,
                respects_windows: true,
                respects_offsets: true,
                includes_ends: true,
                requests: 0,
                arriving: None,
                prints: RandomState::new(),
            }
        }
    }

    impl Pages for Fake {
        async fn page(
            &mut self,
            _: Stream,
            (from, to): (i64, i64),
            offset: u64,
            limit: u32,
        ) -> Result<Page, ReconcileError> {
            self.requests += 1;
            self.seconds.extend(self.arriving);
            let mut found: Vec<(i64, usize)> = self.seconds.iter().copied().zip(1..).collect();
            found.sort_by_key(|(second, id)| std::cmp::Reverse((*second, *id)));
            if self.respects_windows {
                let edge = i64::from(!self.includes_ends);
                found.retain(|(second, _)| (from + edge..=to - edge).contains(second));
            }
            let total = found.len();
            let skip = if self.respects_offsets { offset as usize } else { 0 };
            let items: Vec<String> = found
                .iter()
                .skip(skip)
                .take((limit as usize).min(self.cap))
                .map(|(second, id)| {
                    format!("{{\"id\":{id},\"timestamp\":{second},\"action\":\"PUT /settings\"}}")
                })
                .collect();
            let list = items.join(",");
            let text = if self.bare {
                format!("[{list}]")
            } else {
                format!("{{\"logs\":[{list}],\"totalCount\":{total}}}")
            };
            Ok(Page::read(text.into_bytes(), &mut Tape::default(), &self.prints).unwrap())
        }

        fn place(&self) -> String {
            "here".to_owned()
        }
    }

    fn walk(fake: &mut Fake, from: i64, to: i64, page: u32) -> Result<Vec<i64>, ReconcileError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut walk = Walk::new(Stream::PortainerActivity, from, to, page);
            let mut found = Vec::new();
            while let Some(step) = walk.next(fake).await? {
                found.extend(
                    step.fresh.iter().map(|at| step.page.items[*at].sighting.unwrap().second),
                );
            }
            found.sort_unstable();
            Ok(found)
        })
    }

    proptest! {
        #[test]
        fn every_record_of_the_time_is_had_once(
            mut seconds in proptest::collection::vec(1000..1040_i64, 0..60),
            bare: bool,
            cap in prop_oneof![Just(usize::MAX), 1..9_usize],
            respects_windows: bool,
            includes_ends: bool,
            page in 1..12_u32,
        ) {
            let mut fake = Fake { bare, cap, respects_windows, includes_ends, ..Fake::of(&seconds) };
            let found = walk(&mut fake, 1005, 1030, page);
            seconds.sort_unstable();
            seconds.retain(|second| (1005..=1030).contains(second));
            prop_assert_eq!(found.unwrap(), seconds);
        }

        #[test]
        fn what_arrives_meanwhile_hides_nothing(
            seconds in proptest::collection::vec(1000..1040_i64, 0..60),
            bare: bool,
            page in 2..12_u32,
        ) {
            let mut fake = Fake { bare, arriving: Some(1039), ..Fake::of(&seconds) };
            let mut found = walk(&mut fake, 1000, 1038, page).unwrap();
            let mut expected = seconds;
            expected.sort_unstable();
            expected.retain(|second| *second <= 1038);
            found.dedup();
            expected.dedup();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_offset_that_does_nothing_is_found_out() {
        let mut fake = Fake { bare: true, respects_offsets: false, ..Fake::of(&[1000; 9]) };
        assert!(matches!(walk(&mut fake, 1000, 1000, 4), Err(ReconcileError::Paging { .. })));
        // All of it is had where a page holds it.
        assert_eq!(walk(&mut fake, 1000, 1000, 10).unwrap().len(), 9);
    }

    #[test]
    fn an_empty_day_costs_one_request() {
        let mut fake = Fake::of(&[]);
        assert!(walk(&mut fake, 0, 86_400, 100).unwrap().is_empty());
        assert_eq!(fake.requests, 1);
    }
}
