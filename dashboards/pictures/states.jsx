// Named states over time, a row for each series. Grafana keeps this panel outside its packages, so the boxes are drawn
// here, on Grafana's chart and axes, with the names and colours that Grafana's display processors give.
import { getFieldDisplayName } from "@grafana/data";
import { UPlotChart, UPlotConfigBuilder } from "@grafana/ui";
import { useMemo } from "react";

const PADDING = 6;

function boxes(frame, number) {
  const [time, field] = frame.fields;
  const made = [];
  for (let at = 0; at < frame.length; at += 1) {
    const last = made.at(-1);
    const near = last && time.values[at] - last.to <= field.config.custom.insertNulls;
    if (near) last.to = time.values[at];
    if (!near || last.value !== field.values[at])
      made.push({ number, from: time.values[at], to: time.values[at], value: field.values[at], field });
  }
  return made;
}

function prepared(frames, timeRange, theme, options) {
  const builder = new UPlotConfigBuilder("utc");
  const names = frames.map((frame) => getFieldDisplayName(frame.fields[1], frame, frames));
  const all = frames.flatMap(boxes);
  builder.addScale({
    scaleKey: "x",
    isTime: true,
    orientation: 0,
    direction: 1,
    range: () => [timeRange.from.valueOf(), timeRange.to.valueOf()],
  });
  builder.addScale({ scaleKey: "y", orientation: 1, direction: 1, range: () => [0, frames.length] });
  builder.addAxis({ scaleKey: "x", isTime: true, placement: "bottom", timeZone: "utc", theme, grid: { show: true } });
  const longest = Math.max(...names.map((name) => name.length));
  builder.addAxis({
    scaleKey: "y",
    placement: "left",
    theme,
    grid: { show: false },
    ticks: { show: false },
    size: 12 + longest * 7,
    splits: () => names.map((_, number) => frames.length - number - 0.5),
    values: () => names,
  });
  builder.addSeries({ scaleKey: "y", pathBuilder: () => null, theme, show: true, pxAlign: false });
  builder.addHook("draw", (chart) => {
    const { ctx } = chart;
    const row = chart.bbox.height / frames.length;
    ctx.save();
    ctx.font = `${12 * devicePixelRatio}px sans-serif`;
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    for (const { number, from, to, value, field } of all) {
      const left = chart.valToPos(from, "x", true);
      const right = Math.max(chart.valToPos(to, "x", true), left + 1);
      const { text, color } = field.display(value);
      const height = row * options.rowHeight;
      const top = chart.bbox.top + number * row + (row - height) / 2;
      ctx.fillStyle = color;
      ctx.fillRect(left, top, right - left, height);
      if (ctx.measureText(text).width + 2 * PADDING < right - left) {
        ctx.fillStyle = theme.colors.getContrastText(color);
        ctx.fillText(text, left + PADDING, top + height / 2);
      }
    }
    ctx.restore();
  });
  return builder;
}

export function States({ frames, timeRange, theme, width, height, options }) {
  const builder = useMemo(() => prepared(frames, timeRange, theme, options), [frames]);
  const times = [timeRange.from.valueOf(), timeRange.to.valueOf()];
  return (
    <UPlotChart
      config={builder}
      data={[times, times.map(() => null)]}
      width={width}
      height={height}
      timeRange={timeRange}
    />
  );
}
