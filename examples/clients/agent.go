// Heartbeats of a PAP agent in Go, with the standard library alone.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"
)

var intervals = map[string]time.Duration{"EMERGENCY": 5 * time.Second, "IDLE": 30 * time.Second, "SLEEP": 15 * time.Minute}

type target struct{ url, key string }

// Heartbeats sends them until its context ends, and then says goodbye.
type Heartbeats struct {
	Name, mode         string
	collector, station *target
	started            time.Time
	modes              chan string
}

func NewHeartbeats(id, name, mode string) *Heartbeats {
	h := &Heartbeats{Name: name, mode: mode, started: time.Now(), modes: make(chan string, 1)}
	if base := os.Getenv("PAP_COLLECTOR_URL"); base != "" {
		h.collector = &target{base + "/heartbeat/" + url.PathEscape(id), os.Getenv("PAP_COLLECTOR_KEY")}
	}
	if base := os.Getenv("PAP_STATION_URL"); base != "" {
		h.station = &target{base + "/api/agents/" + url.PathEscape(id) + "/heartbeat", os.Getenv("PAP_AGENT_KEY")}
	}
	return h
}

// SetMode changes the mode, and tells it at once.
func (h *Heartbeats) SetMode(mode string) { h.modes <- mode }

func (h *Heartbeats) call(to *target, method string, timeout time.Duration) bool {
	if to == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var body []byte
	if method == http.MethodPost {
		// time.Since reads the monotonic clock.
		body, _ = json.Marshal(map[string]any{"mode": h.mode, "uptime_seconds": time.Since(h.started).Seconds(), "agent_name": h.Name})
	}
	request, err := http.NewRequestWithContext(ctx, method, to.url, bytes.NewReader(body))
	if err != nil {
		return false
	}
	request.Header.Set("Content-Type", "application/json")
	if to.key != "" {
		request.Header.Set("Authorization", "Bearer "+to.key)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode/100 == 2
}

// The collector, once more, then the station; together at most 5 s.
func (h *Heartbeats) beat() bool {
	return h.call(h.collector, http.MethodPost, 2*time.Second) || h.call(h.collector, http.MethodPost, time.Second) ||
		h.call(h.station, http.MethodPost, 2*time.Second)
}

func (h *Heartbeats) Run(ctx context.Context) {
	// Many that start together do not beat together: the first two beats are at random moments.
	random := rand.New(rand.NewSource(time.Now().UnixNano()))
	most := intervals[h.mode] / 10
	if most > 3*time.Second {
		most = 3 * time.Second
	}
	due := time.Now().Add(time.Duration(random.Int63n(int64(most))))
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			h.call(h.collector, http.MethodDelete, 2*time.Second) // a goodbye, so that a planned stop is no death
			return
		case h.mode = <-h.modes:
			due = time.Now()
		case <-time.After(time.Until(due)):
		}
		taken, step := h.beat(), intervals[h.mode]
		if first {
			step = time.Duration(random.Int63n(int64(step)))
		} else if !taken {
			step /= 4
		}
		if due = due.Add(step); due.Before(time.Now()) {
			due = time.Now() // after a pause one beat, not all that were missed
		}
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	mode := os.Getenv("HEARTBEAT_MODE")
	if mode == "" {
		mode = "IDLE"
	}
	heartbeats := NewHeartbeats(os.Getenv("PAP_AGENT_ID"), "an agent in Go", mode)
	alarm := make(chan os.Signal, 1)
	signal.Notify(alarm, syscall.SIGUSR1)
	go func() {
		for range alarm {
			heartbeats.SetMode("EMERGENCY")
		}
	}()
	heartbeats.Run(ctx) // beside it the agent works
}
