// Submits a deployment and follows it to its end, or cancels one:
//
//	go run . CLUSTER_ID SNAPSHOT.json [DEPLOYMENT_ID]
//	go run . cancel DEPLOYMENT_ID [REASON]
//
// The database and the portal's role come from DATABASE_URL, or from PGHOST, PGUSER and so on.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// State is what tendril.status tells; it has more than this.
type State struct {
	Status       string          `json:"status"`
	WaitingFor   string          `json:"waiting_for"`
	ErrorMessage string          `json:"error_message"`
	Outputs      json.RawMessage `json:"outputs"`
	Logs         []struct {
		AttemptID string `json:"attempt_id"`
		LogEnd    *int64 `json:"log_end"`
		LogState  string `json:"log_state"`
	} `json:"logs"`
}

func (s State) ended() bool {
	return s.Status == "SUCCESS" || s.Status == "FAILED" || s.Status == "CANCELLED"
}

// Position is a vector, since each attempt counts its records from 0: attempt -> last record that was read.
type Position map[string]int64

func (p Position) hasReadAll(s State) bool {
	for _, log := range s.Logs {
		last, seen := p[log.AttemptID]
		if !seen {
			last = -1
		}
		if log.LogState == "open" && (log.LogEnd == nil || last < *log.LogEnd) {
			return false
		}
	}
	return true
}

// Chunk is a stored piece of an attempt's output.
type Chunk struct {
	AttemptID string
	SeqTo     int64
	LogChunk  string
}

// submit queues a deployment once, however often it is sent with the same id.
func submit(ctx context.Context, db *pgx.Conn, id uuid.UUID, cluster string, snapshot json.RawMessage) error {
	_, err := db.Exec(ctx, `INSERT INTO tendril.deployments (id, cluster_id, config_snapshot) VALUES ($1, $2, $3)
		ON CONFLICT (id) DO NOTHING`, id.String(), cluster, snapshot)
	if err != nil {
		return err
	}
	var status string
	err = db.QueryRow(ctx, "SELECT status FROM tendril.deployments WHERE id = $1", id.String()).Scan(&status)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("deployment %s is somebody else's: make a new id", id)
	}
	return err
}

// follow calls show with the deployment's state and the log chunks that came since, until all has been read.
func follow(ctx context.Context, db *pgx.Conn, id uuid.UUID, show func(State, []Chunk)) (State, error) {
	position := Position{}
	for quiet := 0; ; {
		// The state first: what it says about the logs' ends is then older than the rows that are read after it.
		var state State
		if err := db.QueryRow(ctx, "SELECT tendril.status($1)", id.String()).Scan(&state); err != nil {
			return state, err
		}
		rows, err := db.Query(ctx, "SELECT attempt_id::text, seq_to, log_chunk FROM tendril.logs_after($1, $2)",
			id.String(), position)
		if err != nil {
			return state, err
		}
		chunks, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Chunk])
		if err != nil {
			return state, err
		}
		for _, chunk := range chunks {
			position[chunk.AttemptID] = chunk.SeqTo
		}
		show(state, chunks)
		if len(chunks) > 0 {
			continue
		}
		if state.ended() {
			// The log of a runner that was lost may come hours later: nobody waits for that here.
			if quiet++; position.hasReadAll(state) || quiet > 20 {
				return state, nil
			}
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// cancel cancels at once what waits, and asks what runs to stop.
func cancel(ctx context.Context, db *pgx.Conn, id, reason string) (status string, err error) {
	err = db.QueryRow(ctx, "SELECT tendril.cancel($1, $2)", id, reason).Scan(&status)
	return status, err
}

func run(ctx context.Context, db *pgx.Conn, args []string) (int, error) {
	if args[0] == "cancel" {
		reason := "cancelled from Go"
		if len(args) > 2 {
			reason = args[2]
		}
		status, err := cancel(ctx, db, args[1], reason)
		fmt.Println(status)
		return 0, err
	}
	id, err := uuid.NewV7()
	if len(args) > 2 {
		id, err = uuid.Parse(args[2])
	}
	if err != nil {
		return 1, err
	}
	fmt.Fprintln(os.Stderr, "deployment", id)
	snapshot, err := os.ReadFile(args[1])
	if err != nil {
		return 1, err
	}
	if err := submit(ctx, db, id, args[0], snapshot); err != nil {
		return 1, err
	}
	var shown State
	state, err := follow(ctx, db, id, func(state State, chunks []Chunk) {
		if state.Status != shown.Status || state.WaitingFor != shown.WaitingFor {
			fmt.Fprintln(os.Stderr, strings.TrimSuffix(state.Status+", waits for "+state.WaitingFor, ", waits for "))
			shown = state
		}
		for _, chunk := range chunks {
			fmt.Print(chunk.LogChunk)
		}
	})
	if err != nil {
		return 1, err
	}
	if state.ErrorMessage != "" {
		fmt.Fprintln(os.Stderr, state.ErrorMessage)
	}
	if state.Status != "SUCCESS" {
		return 1, nil
	}
	fmt.Fprintln(os.Stderr, string(state.Outputs))
	return 0, nil
}

// explain says what was refused. TD001 to TD013 are Tendril's own; TD001 lists every wrong key in its detail.
func explain(err error) {
	var refusal *pgconn.PgError
	if !errors.As(err, &refusal) {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	fmt.Fprintf(os.Stderr, "refused (%s): %s; %s\n", refusal.Code, refusal.Message, refusal.Hint)
	var problems []struct{ Path, Message string }
	if json.Unmarshal([]byte(refusal.Detail), &problems) == nil {
		for _, problem := range problems {
			fmt.Fprintf(os.Stderr, "  %s: %s\n", problem.Path, problem.Message)
		}
	}
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: deploy CLUSTER_ID SNAPSHOT.json [DEPLOYMENT_ID] | deploy cancel DEPLOYMENT_ID [REASON]")
		os.Exit(2)
	}
	ctx := context.Background()
	db, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		explain(err)
		os.Exit(1)
	}
	code, err := run(ctx, db, os.Args[1:])
	db.Close(ctx)
	if err != nil {
		explain(err)
		code = 2
	}
	os.Exit(code)
}
