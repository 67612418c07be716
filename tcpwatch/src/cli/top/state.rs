//! The state of the session: snapshots and keys in, no terminal and no clock.
//!
//! `view` draws it, `mod.rs` feeds it. Time is the time of the session, given with each input. A
//! pause freezes what is shown; snapshots are taken over all the same, so that no graph has a gap.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    history::History,
    rows::{columns, rows},
    snapshot::Snapshot,
    table::{Order, Table},
};

/// The views, in the order of their tabs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Findings,
    Owners,
    Listeners,
    Ports,
    Rates,
}

impl View {
    pub(super) const ALL: [Self; 5] =
        [Self::Findings, Self::Owners, Self::Listeners, Self::Ports, Self::Rates];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Findings => "findings",
            Self::Owners => "owners",
            Self::Listeners => "listeners",
            Self::Ports => "ports",
            Self::Rates => "rates",
        }
    }
}

/// The source of the snapshots, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The agent that runs on this host.
    Agent,
    /// This process, and why no agent's findings are shown where one was expected.
    Own(Option<String>),
}

/// The connection to the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// There was no answer yet.
    Waiting,
    Up,
    Lost {
        since: Duration,
        why: String,
    },
}

/// An order to the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Quit,
    Suspend,
}

/// A page that lies over the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// The row with this key.
    Detail(String),
    /// The runbook of this name.
    Runbook(&'static str),
    NotSeen,
    Help,
}

/// A page and the first line of it that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenPage {
    pub(super) page: Page,
    /// `view` bounds it by the lines that there are.
    pub(super) scroll: usize,
}

/// A list's place and order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    pub(super) order: Order,
    pub(super) selected: usize,
    /// The key of the selected row, to find it again.
    key: Option<String>,
    /// First row that is shown; `view` keeps the selected one in sight.
    pub(super) offset: usize,
}

/// A snapshot with the rates up to it.
#[derive(Clone, Debug)]
pub(super) struct Data {
    pub(super) snapshot: Snapshot,
    pub(super) history: History,
    pub(super) received: Duration,
}

/// The state of the session.
#[derive(Debug)]
pub(super) struct State {
    pub(super) origin: Origin,
    pub(super) link: Link,
    pub(super) interval: Duration,
    pub(super) now: Duration,
    pub(super) view: View,
    pub(super) pages: Vec<OpenPage>,
    pub(super) filter: String,
    pub(super) is_typing: bool,
    live: Option<Data>,
    frozen: Option<Data>,
    /// Rates, also before and between snapshots.
    history: History,
    lists: [List; View::ALL.len()],
}

impl State {
    pub(super) fn new(origin: Origin, interval: Duration) -> Self {
        Self {
            origin,
            link: Link::Waiting,
            interval,
            now: Duration::ZERO,
            view: View::Findings,
            pages: Vec::new(),
            filter: String::new(),
            is_typing: false,
            live: None,
            frozen: None,
            history: History::default(),
            lists: Default::default(),
        }
    }

    pub(super) fn handle_time(&mut self, now: Duration) {
        self.now = now;
    }

    pub(super) fn handle_snapshot(&mut self, now: Duration, snapshot: Snapshot) {
        self.now = now;
        self.link = Link::Up;
        self.history.push(now, &snapshot.counters);
        let history = self.history.clone();
        self.live = Some(Data { snapshot, history, received: now });
        self.find_selected();
    }

    /// There was no answer, for a reason that is [plain](crate::plain).
    pub(super) fn handle_loss(&mut self, now: Duration, why: String) {
        self.now = now;
        self.history.push_gap();
        let since = match self.link {
            Link::Lost { since, .. } => since,
            Link::Waiting | Link::Up => now,
        };
        self.link = Link::Lost { since, why };
    }

    pub(super) fn handle_key(&mut self, key: KeyEvent) -> Option<Command> {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Some(Command::Quit),
            KeyCode::Char('z') if is_control => return Some(Command::Suspend),
            _ if is_control => {}
            _ if self.is_typing => self.type_filter(key.code),
            KeyCode::Char('q') => return Some(Command::Quit),
            code if self.pages.is_empty() => self.handle_list_key(code),
            code => self.handle_page_key(code),
        }
        None
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            // It is shown, so it holds no control character.
            KeyCode::Char(character)
                if crate::plain::is_plain(character.encode_utf8(&mut [0; 4])) =>
            {
                self.filter.push(character);
            }
            _ => {}
        }
        self.find_selected();
    }

    fn handle_list_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Down | KeyCode::Char('j') => self.step(|it| it.saturating_add(1)),
            KeyCode::Up | KeyCode::Char('k') => self.step(|it| it.saturating_sub(1)),
            KeyCode::PageDown => self.step(|it| it.saturating_add(10)),
            KeyCode::PageUp => self.step(|it| it.saturating_sub(10)),
            KeyCode::Home | KeyCode::Char('g') => self.step(|_| 0),
            KeyCode::End | KeyCode::Char('G') => self.step(|_| usize::MAX),
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(View::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='5') => {
                self.view = View::ALL[digit as usize - '1' as usize];
                self.find_selected();
            }
            KeyCode::Enter => {
                if let Some(key) = self.selected_key() {
                    self.open(Page::Detail(key));
                }
            }
            KeyCode::Char('s') => self.reorder(|order, view| order.next(columns(view))),
            KeyCode::Char('r') => self.reorder(|order, _| order.is_reversed = !order.is_reversed),
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char(' ') => self.toggle_pause(),
            KeyCode::Char('e') => self.open_runbook(),
            KeyCode::Char('n') => self.open(Page::NotSeen),
            KeyCode::Char('?' | 'h') => self.open(Page::Help),
            KeyCode::Esc => {
                self.filter.clear();
                self.find_selected();
            }
            _ => {}
        }
    }

    fn handle_page_key(&mut self, code: KeyCode) {
        let Some(OpenPage { scroll, page }) = self.pages.last_mut() else { return };
        match code {
            KeyCode::Down | KeyCode::Char('j') => *scroll = scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => *scroll = scroll.saturating_sub(1),
            KeyCode::PageDown => *scroll = scroll.saturating_add(10),
            KeyCode::PageUp => *scroll = scroll.saturating_sub(10),
            KeyCode::Home | KeyCode::Char('g') => *scroll = 0,
            KeyCode::End | KeyCode::Char('G') => *scroll = usize::MAX,
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => {
                self.pages.pop();
            }
            KeyCode::Char(' ') => self.toggle_pause(),
            KeyCode::Char('e') if matches!(page, Page::Detail(_)) => self.open_runbook(),
            // The tabs stay in sight.
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Char('1'..='5') => {
                self.pages.clear();
                self.handle_list_key(code);
            }
            KeyCode::Char('?' | 'h') if *page != Page::Help => self.open(Page::Help),
            _ => {}
        }
    }

    fn open(&mut self, page: Page) {
        self.pages.push(OpenPage { page, scroll: 0 });
    }

    /// The runbook of the finding that is selected or open.
    fn open_runbook(&mut self) {
        let key = match self.pages.last() {
            Some(OpenPage { page: Page::Detail(key), .. }) => Some(key.clone()),
            _ => self.selected_key(),
        };
        let Some((key, data)) = key.zip(self.data()) else { return };
        let finding = data.snapshot.findings.iter().find(|finding| finding.id == key);
        if let Some(kind) = finding.filter(|_| self.view == View::Findings).map(|it| it.kind) {
            self.open(Page::Runbook(kind.name()));
        }
    }

    fn toggle_pause(&mut self) {
        self.frozen = match self.frozen {
            Some(_) => None,
            None => self.live.clone(),
        };
        self.find_selected();
    }

    pub(super) fn is_paused(&self) -> bool {
        self.frozen.is_some()
    }

    /// The data that is shown.
    pub(super) fn data(&self) -> Option<&Data> {
        self.frozen.as_ref().or(self.live.as_ref())
    }

    /// The table of a view.
    pub(super) fn table(&self, view: View) -> Option<Table> {
        let data = self.data()?;
        let rows = rows(view, &data.snapshot, &data.history);
        Some(Table::new(rows, &self.filter, self.list(view).order))
    }

    pub(super) fn list(&self, view: View) -> &List {
        &self.lists[view as usize]
    }

    pub(super) fn list_mut(&mut self) -> &mut List {
        &mut self.lists[self.view as usize]
    }

    fn turn(&mut self, by: usize) {
        self.view = View::ALL[(self.view as usize + by) % View::ALL.len()];
        self.find_selected();
    }

    fn reorder(&mut self, change: impl FnOnce(&mut Order, View)) {
        let view = self.view;
        change(&mut self.list_mut().order, view);
        // The first of the new order is what a person looks for.
        self.step(|_| 0);
    }

    fn selected_key(&self) -> Option<String> {
        let rows = self.table(self.view)?.rows;
        rows.get(self.list(self.view).selected).map(|row| row.key.clone())
    }

    fn step(&mut self, to: impl FnOnce(usize) -> usize) {
        let rows = self.table(self.view).map_or(0, |table| table.rows.len());
        let list = self.list_mut();
        list.selected = to(list.selected).min(rows.saturating_sub(1));
        self.list_mut().key = self.selected_key();
    }

    /// Finds the selected row at its new place; where it is gone, the one that has its place.
    fn find_selected(&mut self) {
        let Some(Table { rows, .. }) = self.table(self.view) else { return };
        let list = self.list_mut();
        let place = list.key.as_ref().and_then(|key| rows.iter().position(|row| row.key == *key));
        list.selected = place.unwrap_or(list.selected).min(rows.len().saturating_sub(1));
        // The first row stays selected as the first, until a person selects another.
        list.key = list.key.take().and_then(|_| rows.get(list.selected)).map(|it| it.key.clone());
    }
}
