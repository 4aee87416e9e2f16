// Command go-workers keeps the newest event of every key in a NATS key-value bucket, STREAM_CURRENT, by a
// durable consumer that any number of workers and processes share: go run . [-url URL] [-stream STREAM]
//
// A message is acknowledged once the bucket, written by compare-and-set alone, has its event or a higher
// revision: order, repetition, rivals and kills do not matter. A removed row stays, as the event that says so.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log"
	"os/signal"
	"sync"
	"syscall"
	"time"

	cejetstream "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	url := flag.String("url", nats.DefaultURL, "servers")
	stream := flag.String("stream", "AMAZON_BILLING", "of the events")
	flag.Parse()
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	js := must(jetstream.New(must(nats.Connect(*url, nats.MaxReconnects(-1)))))
	bucket := must(js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: *stream + "_CURRENT"}))
	consumer := must(js.CreateOrUpdateConsumer(ctx, *stream, jetstream.ConsumerConfig{Durable: "current"}))
	var workers sync.WaitGroup
	for range 4 {
		messages := must(consumer.Messages(jetstream.PullMaxMessages(100)))
		context.AfterFunc(ctx, messages.Drain)
		workers.Go(func() { work(messages, bucket) })
	}
	workers.Wait()
}

func work(messages jetstream.MessagesContext, bucket jetstream.KeyValue) {
	for {
		message, err := messages.Next()
		if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			return
		} else if err == nil {
			key, revision, value, foreign := read(message.Headers(), message.Data())
			if foreign != nil { // Others may write here: said, and left aside.
				err = errors.Join(foreign, message.Term())
			} else if err = keep(bucket, key, revision, value); err != nil {
				err = errors.Join(err, message.NakWithDelay(time.Second))
			} else {
				err = message.Ack()
			}
		}
		if err != nil {
			log.Print(err)
		}
	}
}

// read gives the key, the revision, and the event as JSON.
func read(header nats.Header, data []byte) (key string, revision int32, value []byte, err error) {
	message := cejetstream.NewMessage(&nats.Msg{Header: header, Data: data})
	event, err := binding.ToEvent(context.Background(), message)
	if err != nil {
		return
	}
	key, noKey := types.ToString(event.Extensions()["partitionkey"])
	revision, noRevision := types.ToInteger(event.Extensions()["revision"]) // A text in binary mode.
	value, noEvent := json.Marshal(event)
	return key, revision, value, errors.Join(noKey, noRevision, noEvent)
}

// keep returns nil once the bucket has the event, or one of a higher revision.
func keep(bucket jetstream.KeyValue, key string, revision int32, value []byte) error {
	known, err := bucket.Get(context.Background(), key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		_, err = bucket.Create(context.Background(), key, value)
	} else if err == nil {
		if _, held, _, err := read(nil, known.Value()); err != nil || held >= revision {
			return err
		}
		_, err = bucket.Update(context.Background(), key, value, known.Revision())
	}
	if errors.Is(err, jetstream.ErrKeyExists) {
		return keep(bucket, key, revision, value) // Another worker was faster: look again.
	}
	return err
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
