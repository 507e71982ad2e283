//! Connections in the order in which they would give way to others.

/// A place in a slab of connections.
pub type Slot = u32;

/// Which queue a connection is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Queue {
    /// It has not sent a whole request: the one that is open for longest gives way first.
    Newcomers,
    /// It has had its answers: the one that is idle for longest gives way when no newcomer is
    /// left.
    Idle,
    /// It is being answered, and gives way to nobody.
    #[default]
    Busy,
}

/// A connection's links in its queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Links {
    queue: Queue,
    before: Option<Slot>,
    behind: Option<Slot>,
}

impl Links {
    /// The queue that it is in.
    pub const fn queue(&self) -> Queue {
        self.queue
    }
}

/// Whatever holds the links of each connection.
pub trait Linked {
    /// The links of the connection in `slot`, which is there.
    fn links(&mut self, slot: Slot) -> &mut Links;
}

/// First in, first out, for both queues.
#[derive(Debug, Default)]
pub struct Order {
    newcomers: (Option<Slot>, Option<Slot>),
    idle: (Option<Slot>, Option<Slot>),
}

impl Order {
    /// The first of a queue.
    pub const fn first(&self, queue: Queue) -> Option<Slot> {
        match queue {
            Queue::Newcomers => self.newcomers.0,
            Queue::Idle => self.idle.0,
            Queue::Busy => None,
        }
    }

    /// Puts a connection at the end of a queue.
    pub fn move_to(&mut self, all: &mut impl Linked, slot: Slot, queue: Queue) {
        self.leave(all, slot);
        let Some(ends) = self.ends(queue) else {
            *all.links(slot) = Links::default();
            return;
        };
        let last = ends.1.replace(slot);
        ends.0.get_or_insert(slot);
        *all.links(slot) = Links { queue, before: last, behind: None };
        if let Some(last) = last {
            all.links(last).behind = Some(slot);
        }
    }

    /// Takes a connection out of its queue.
    pub fn leave(&mut self, all: &mut impl Linked, slot: Slot) {
        let Links { queue, before, behind } = std::mem::take(all.links(slot));
        if let Some(before) = before {
            all.links(before).behind = behind;
        }
        if let Some(behind) = behind {
            all.links(behind).before = before;
        }
        if let Some(ends) = self.ends(queue) {
            if ends.0 == Some(slot) {
                ends.0 = behind;
            }
            if ends.1 == Some(slot) {
                ends.1 = before;
            }
        }
    }

    const fn ends(&mut self, queue: Queue) -> Option<&mut (Option<Slot>, Option<Slot>)> {
        match queue {
            Queue::Newcomers => Some(&mut self.newcomers),
            Queue::Idle => Some(&mut self.idle),
            Queue::Busy => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Linked for Vec<Links> {
        fn links(&mut self, slot: Slot) -> &mut Links {
            &mut self[slot as usize]
        }
    }

    fn all(order: &Order, links: &[Links], queue: Queue) -> Vec<Slot> {
        std::iter::successors(order.first(queue), |&slot| links[slot as usize].behind).collect()
    }

    proptest! {
        /// As two plain lists would have it.
        #[test]
        fn first_in_first_out(moves in prop::collection::vec((0..6_u32, 0..3_usize), 0..60)) {
            let (mut order, mut links) = (Order::default(), vec![Links::default(); 6]);
            let mut expected: [Vec<Slot>; 2] = Default::default();
            for (slot, to) in moves {
                for queue in &mut expected {
                    queue.retain(|&other| other != slot);
                }
                let queue = [Queue::Newcomers, Queue::Idle, Queue::Busy][to];
                if to < 2 {
                    expected[to].push(slot);
                }
                order.move_to(&mut links, slot, queue);
                prop_assert_eq!(links[slot as usize].queue(), queue);
                prop_assert_eq!(all(&order, &links, Queue::Newcomers), expected[0].clone());
                prop_assert_eq!(all(&order, &links, Queue::Idle), expected[1].clone());
            }
        }
    }
}
