use super::*;

fn queue() -> (Queue, Metrics) {
    let metrics = Metrics::new();
    (Queue::new(&metrics), metrics)
}

fn put(queue: &Queue, source: &str, text: &str, is_error: bool) {
    queue.put(format!("{source}{text}\n").as_bytes(), is_error);
}

const RELAY: &str = "r0000000000000000";
const TENANT: &str = "t0000000000000001";
const OTHER: &str = "t0000000000000002";

impl Queue {
    fn lost(&self) -> [u64; 3] {
        [0, 1, 2].map(|n| self.counters[n].1.get())
    }

    fn all(&self) -> String {
        let mut text = Vec::new();
        while let Some(batch) = self.rest() {
            self.wrote(&batch, batch.octets.len());
            text.extend(batch.octets);
        }
        String::from_utf8(text).unwrap()
    }
}

#[test]
fn lines_come_out_as_they_went_in() {
    let (queue, _metrics) = queue();
    put(&queue, RELAY, "one", false);
    put(&queue, TENANT, "two", true);
    assert_eq!(queue.all(), "one\ntwo\n");
    assert_eq!(queue.lost(), [0; 3]);
    let state = queue.state();
    assert_eq!((state.octets, state.count), (0, 0));
}

#[test]
fn a_full_queue_counts_what_it_does_not_take_and_has_room_for_errors() {
    let (queue, metrics) = queue();
    for _ in 0..MOST_LINES {
        put(&queue, RELAY, "x", false);
    }
    assert_eq!(queue.lost(), [(MOST_LINES / ERRORS) as u64, 0, 0]);
    put(&queue, RELAY, "an error", true);
    assert!(queue.all().ends_with("\nan error\n"));
    assert!(metrics.render().unwrap().contains(r#"log_lines_lost_total{reason="full"} 2048"#));

    let large = "x".repeat(MOST_OCTETS / 16);
    for _ in 0..16 {
        put(&queue, RELAY, &large, false);
    }
    assert_eq!(queue.lost()[0], (MOST_LINES / ERRORS) as u64 + 3);
    put(&queue, RELAY, "another", true);
    assert!(queue.all().ends_with("\nanother\n"));
}

#[test]
fn one_tenant_does_not_fill_it() {
    let (queue, _metrics) = queue();
    let large = "x".repeat(MOST_OCTETS / 64);
    for _ in 0..64 {
        put(&queue, TENANT, &large, false);
    }
    assert_eq!(queue.lost(), [0, 0, 49]);
    put(&queue, OTHER, "other", false);
    put(&queue, TENANT, "its error", true);
    assert!(queue.all().ends_with("\nother\nits error\n"));
    put(&queue, TENANT, "again", false);
    assert_eq!(queue.all(), "again\n");
}

#[test]
fn a_write_that_breaks_off_loses_the_lines_that_are_not_whole() {
    let (queue, _metrics) = queue();
    for text in ["one", "two", "three"] {
        put(&queue, RELAY, text, false);
    }
    let batch = queue.rest().unwrap();
    queue.wrote(&batch, 5);
    assert_eq!(queue.lost(), [0, 2, 0]);
    assert!(!queue.state().flows);
}

#[test]
fn the_end_waits_for_the_thread_and_no_longer_than_allowed() {
    let (queue, _metrics) = queue();
    queue.attend();
    assert!(!queue.end(Duration::from_millis(1)));
    queue.desert();
    assert!(queue.end(Duration::from_secs(60)));
    assert!(queue.next().is_none());
}
