// Command reader prints what the CloudEvents SDK for Go makes of the first COUNT messages, a JSON line each.
//
//	reader kafka SERVERS TOPIC COUNT
//	reader nats URL STREAM COUNT
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	"github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/client"
	"github.com/nats-io/nats.go"
)

func main() {
	log.SetFlags(0)
	kind, address, from := os.Args[1], os.Args[2], os.Args[3]
	left, err := strconv.Atoi(os.Args[4])
	if err != nil {
		log.Fatal(err)
	}
	receiver, err := open(kind, address, from)
	if err != nil {
		log.Fatal(err)
	}
	// One goroutine, so that nothing is printed out of order.
	events, err := cloudevents.NewClient(receiver, client.WithPollGoroutines(1), client.WithBlockingCallback())
	if err != nil {
		log.Fatal(err)
	}
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	err = events.StartReceiver(ctx, func(event cloudevents.Event) {
		if left > 0 {
			show(event)
			left--
		}
		if left == 0 {
			done()
		}
	})
	if left > 0 {
		log.Fatalf("%d messages are missing: %v", left, err)
	}
}

func open(kind, address, from string) (any, error) {
	if kind == "nats" {
		deliver := []nats.SubOpt{nats.OrderedConsumer(), nats.DeliverAll()}
		return nats_jetstream.NewConsumer(address, from, ">", nil, nil, append(deliver, nats.BindStream(from)))
	}
	config := sarama.NewConfig()
	config.Version = sarama.V2_8_0_0
	config.Consumer.IsolationLevel = sarama.ReadCommitted
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	return kafka_sarama.NewConsumer(strings.Split(address, ","), config, "go-reader", from)
}

func show(event cloudevents.Event) {
	if err := event.Validate(); err != nil {
		log.Fatal(err)
	}
	attributes := map[string]any{
		"specversion": event.SpecVersion(), "id": event.ID(), "source": event.Source(), "type": event.Type(),
		"subject": event.Subject(), "time": event.Time(), "dataschema": event.DataSchema(),
		"datacontenttype": event.DataContentType(),
	}
	for name, value := range event.Extensions() {
		attributes[name] = value
	}
	line, err := json.Marshal(map[string]any{"attributes": attributes, "data": json.RawMessage(event.Data())})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}
