//! The charges of one day: a pure function of seed, paying account and day.
//!
//! Tax and support depend on the sum of a month and are made in the parent module.

use super::{
    calendar,
    catalogue::{
        BEDROCK, COST_EXPLORER, EC2, EC2_OTHER, FIRST_FREE, FREE, LAMBDA, MISTAKEN, NO_UNIT, RDS, RecordType,
        SAVINGS_PLANS, SERVICES, Shape,
    },
};
use crate::cost::CostMetric;

/// One US dollar in the unit of every figure here: ten decimals.
pub(crate) const ONE: i64 = 10_000_000_000;
const CENT: i64 = ONE / 100;
const HOUR: i64 = 3600;

/// One charge: who pays for what, when, how much, and when AWS's books show it.
#[derive(Clone, Debug)]
pub(crate) struct Charge {
    /// The hour of the charge, counted from 1970-01-01T00:00Z.
    pub(crate) hour: i32,
    pub(crate) account: u8,
    pub(crate) service: u8,
    pub(crate) region: u8,
    pub(crate) team: u8,
    pub(crate) record: RecordType,
    pub(crate) unit: u8,
    /// First second in which the charge is in the books.
    pub(crate) from: i64,
    /// First second in which it is there no more; `i64::MAX` for nearly all.
    pub(crate) until: i64,
    /// By `CostMetric as usize`, each with ten decimals.
    pub(crate) figures: [i64; 7],
}

/// Seed and paying account: all that the charges of a day are a function of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) seed: u64,
    pub(crate) payer: u64,
}

impl Origin {
    /// A number drawn for a purpose (`salt`) and two coordinates: splitmix64 over all of them.
    pub(crate) fn draw(self, salt: u64, a: u64, b: u64) -> u64 {
        let mut state = self.seed ^ 0x9E37_79B9_7F4A_7C15;
        for word in [self.payer, salt, a, b] {
            state = mix(state.wrapping_add(word).wrapping_add(0x9E37_79B9_7F4A_7C15));
        }
        state
    }

    /// A number drawn from `0..below`.
    pub(crate) fn below(self, below: i64, salt: u64, a: i64, b: u64) -> i64 {
        let drawn = self.draw(salt, a.cast_unsigned(), b) >> 1;
        drawn.cast_signed() % below
    }
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Every charge dated on a day (counted from 1970-01-01), ordered by hour.
pub(crate) fn of_day(origin: Origin, day: i32) -> Vec<Charge> {
    let mut charges = Vec::with_capacity(1800);
    let today = Today { origin, day, growth: calendar::growth(day), weekday: calendar::weekday(day) };
    for hour in 0..24 {
        for number in 0..SERVICES.len() {
            today.usage(hour, number, &mut charges);
        }
        today.commitments(hour, &mut charges);
        if hour == 0 {
            today.fees(&mut charges);
            today.free_tier(&mut charges);
        }
        if hour == 12 {
            today.mistake(&mut charges);
        }
    }
    charges
}

struct Today {
    origin: Origin,
    day: i32,
    /// Per mille of the table's amounts.
    growth: i64,
    /// Sunday is 0.
    weekday: i32,
}

impl Today {
    /// When a charge of an hour reaches the books: hours later, one in forty days later.
    fn ingested(&self, hour: i32, salt: u64) -> i64 {
        let at = self.at(hour);
        let drawn = self.origin.draw(100 + salt, at.cast_unsigned(), 0);
        let late = (drawn >> 16).cast_signed();
        let minutes = match drawn % 40 {
            0..24 => 180 + late % 360,
            24..34 => 540 + late % 660,
            34..39 => 1200 + late % 600,
            _ => 1440 + late % 2880,
        };
        at + HOUR + minutes * 60
    }

    /// The second at which an hour of this day begins.
    fn at(&self, hour: i32) -> i64 {
        (i64::from(self.day) * 24 + i64::from(hour)) * HOUR
    }

    fn usage(&self, hour: i32, number: usize, charges: &mut Vec<Charge>) {
        let service = &SERVICES[number];
        let weight = weight(service.shape, self.weekday, hour);
        if weight == 0 {
            return;
        }
        let whole = service.cents * CENT / 24 / 1000 * weight / 1000 * self.growth;
        let number = u8::try_from(number).expect("a table of 32 lines");
        for (index, share) in service.shares.iter().enumerate() {
            let salt = u64::from(number) * 8 + index as u64;
            let noise = 880_000 + self.origin.below(240_001, salt, self.at(hour), 1);
            let amount = whole / 1_000_000 * noise / 100 * share.percent + noise % 97;
            let quantity = amount / 7 * 60 + noise % 1009;
            let blended = match (number, share.account) {
                (EC2 | RDS, 1) => amount / 1000 * 993,
                (EC2 | RDS, 2) => amount / 1000 * 1021,
                _ => amount,
            };
            let normalized = if matches!(number, EC2 | RDS) { quantity / 3 * 4 } else { 0 };
            let mut charge = Charge {
                hour: self.day * 24 + hour,
                account: share.account,
                service: number,
                region: share.region,
                team: share.team,
                record: RecordType::Usage,
                unit: share.unit,
                from: self.ingested(hour, salt),
                until: i64::MAX,
                figures: figures(amount, amount, blended, normalized, quantity),
            };
            let credited = match (number, share.account) {
                (LAMBDA, 3) => 100,
                (BEDROCK, 3) => 30,
                _ => 0,
            };
            charges.push(charge.clone());
            if credited > 0 {
                // Credits mirror usage to eight decimals and come half a day to two days later.
                let credit = -((amount * credited / 100 + 50) / 100 * 100);
                charge.record = RecordType::Credit;
                charge.unit = NO_UNIT;
                charge.from += (12 + self.origin.below(30, 60 + salt, self.at(hour), 2)) * HOUR;
                charge.figures = figures(credit, credit, credit, 0, 0);
                charges.push(charge);
            }
        }
    }

    /// A savings plan and a reservation: where amortized and unblended costs differ.
    fn commitments(&self, hour: i32, charges: &mut Vec<Charge>) {
        let (committed, fee, reserved) = (3 * ONE + 20 * CENT, 3 * ONE, 94 * CENT);
        let noise = self.origin.below(ONE / 4, 70, self.at(hour), 3);
        let on_demand = committed / 100 * 138 + noise;
        let from = self.ingested(hour, 70);
        let charge = |service, record, unblended, amortized, quantity| Charge {
            hour: self.day * 24 + hour,
            account: 1,
            service,
            region: 0,
            team: 1,
            record,
            unit: 0,
            from,
            until: i64::MAX,
            figures: figures(unblended, amortized, unblended, quantity * 4, quantity),
        };
        charges.push(charge(EC2, RecordType::SavingsPlanCoveredUsage, on_demand, fee, 16 * ONE));
        charges.push(charge(EC2, RecordType::SavingsPlanNegation, -on_demand, 0, 0));
        charges.push(charge(
            SAVINGS_PLANS,
            RecordType::SavingsPlanRecurringFee,
            committed,
            committed - fee,
            0,
        ));
        // The reservation's fee for the whole month is charged on the 1st, and used hour by hour.
        if hour == 0 && calendar::date(self.day).day() == 1 {
            let hours = i64::from(calendar::days_in_month(self.day)) * 24;
            charges.push(charge(RDS, RecordType::Recurring, reserved * hours, 0, 0));
        }
        charges.push(charge(RDS, RecordType::DiscountedUsage, 0, reserved, ONE));
    }

    /// What is charged once a day: this API's own price, and a refund dated on the 12th that comes
    /// after the month was closed.
    fn fees(&self, charges: &mut Vec<Charge>) {
        let requests = 3 + self.origin.below(4, 71, self.at(0), 4);
        let mut charge = Charge {
            hour: self.day * 24,
            account: 0,
            service: COST_EXPLORER,
            region: 0,
            team: 0,
            record: RecordType::Usage,
            unit: 2,
            from: self.ingested(20, 71),
            until: i64::MAX,
            figures: figures(requests * CENT, requests * CENT, requests * CENT, 0, requests * ONE),
        };
        charges.push(charge.clone());
        if calendar::date(self.day).day() == 12 {
            let refund = -(20 * ONE + self.origin.below(40 * ONE, 72, self.at(0), 5) / CENT * CENT);
            charge.account = 1;
            charge.service = RDS;
            charge.team = 1;
            charge.record = RecordType::Refund;
            charge.unit = NO_UNIT;
            // The 8th of the next month at noon.
            charge.from = (i64::from(calendar::next_month(self.day)) + 7) * 24 * HOUR + 12 * HOUR;
            charge.figures = figures(refund, refund, refund, 0, 0);
            charges.push(charge);
        }
    }

    fn free_tier(&self, charges: &mut Vec<Charge>) {
        for number in 0..FREE.len() as u64 {
            let drawn = self.origin.below(100, 80 + number, self.at(0), 6);
            if drawn >= 93 {
                continue;
            }
            charges.push(Charge {
                hour: self.day * 24,
                account: 1 + u8::from(drawn % 3 == 0),
                service: FIRST_FREE + u8::try_from(number).expect("a table of 60 lines"),
                region: 0,
                team: 0,
                record: RecordType::Usage,
                unit: 2,
                from: self.ingested(i32::try_from(number % 24).expect("below 24"), 80 + number),
                until: i64::MAX,
                figures: figures(0, 0, 0, 0, (1 + drawn * 37) * ONE),
            });
        }
    }

    /// On one day in six a charge is booked to a wrong service, withdrawn a day or two later and
    /// booked to the right one; one mistake in three comes back.
    fn mistake(&self, charges: &mut Vec<Charge>) {
        let origin = self.origin;
        if origin.below(6, 90, self.at(0), 7) != 0 {
            return;
        }
        let amount = 4 * ONE + origin.below(16 * ONE, 91, self.at(0), 8);
        let wrong = MISTAKEN + u8::try_from(origin.below(3, 92, self.at(0), 9)).expect("below 3");
        let booked = self.at(22);
        let withdrawn = booked + (24 + origin.below(24, 93, self.at(0), 10)) * HOUR;
        let again = if origin.below(3, 94, self.at(0), 11) == 0 { withdrawn + 40 * HOUR } else { i64::MAX };
        let charge = |service, from, until| Charge {
            hour: self.day * 24 + 12,
            account: 1,
            service,
            region: 0,
            team: 3,
            record: RecordType::Usage,
            unit: 0,
            from,
            until,
            figures: figures(amount, amount, amount, 0, ONE),
        };
        charges.push(charge(wrong, booked, withdrawn));
        charges.push(charge(EC2_OTHER, withdrawn, again));
        if again < i64::MAX {
            charges.push(charge(wrong, again, i64::MAX));
        }
    }
}

/// Per mille of the mean hour.
const fn weight(shape: Shape, weekday: i32, hour: i32) -> i64 {
    let weekend = weekday == 0 || weekday == 6;
    match shape {
        Shape::Steady => 1000,
        Shape::Traffic => {
            let by_hour = match hour {
                0..6 => 700,
                6..9 | 20..24 => 960,
                _ => 1220,
            };
            if weekend { by_hour / 100 * 78 } else { by_hour / 100 * 108 }
        }
        Shape::Office => match hour {
            8..18 if !weekend => 3360,
            _ => 0,
        },
        Shape::Nightly => match hour {
            1..4 => 8000,
            _ => 0,
        },
    }
}

/// The seven figures of a charge; the Net figures are after the company's discount of 4 %.
pub(super) const fn figures(
    unblended: i64,
    amortized: i64,
    blended: i64,
    normalized: i64,
    quantity: i64,
) -> [i64; 7] {
    let mut figures = [0; 7];
    figures[CostMetric::UnblendedCost as usize] = unblended;
    figures[CostMetric::AmortizedCost as usize] = amortized;
    figures[CostMetric::BlendedCost as usize] = blended;
    figures[CostMetric::NetUnblendedCost as usize] = unblended - unblended / 25;
    figures[CostMetric::NetAmortizedCost as usize] = amortized - amortized / 25;
    figures[CostMetric::NormalizedUsageAmount as usize] = normalized;
    figures[CostMetric::UsageQuantity as usize] = quantity;
    figures
}
