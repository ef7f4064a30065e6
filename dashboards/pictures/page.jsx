// A dashboard as Grafana lays it out, of Grafana's components: window.given has its JSON, and Prometheus' answers by the
// panels' numbers.
import {
  FieldType,
  Registry,
  ThemeContext,
  applyFieldOverrides,
  cacheFieldDisplayNames,
  createDataFrame,
  createTheme,
  dateTime,
  getDisplayProcessor,
  getFieldDisplayValues,
  standardTransformers,
  standardTransformersRegistry,
  transformDataFrame,
} from "@grafana/data";
import {
  BigValue,
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  GlobalStyles,
  PanelChrome,
  TimeSeries,
} from "@grafana/ui";
import { TableNG } from "@grafana/ui/unstable";
import { Component } from "react";
import { createRoot } from "react-dom/client";
import "@grafana/react-data-grid/lib/styles.css";
import "uplot/dist/uPlot.min.css";
import { States } from "./states.jsx";

// As in Grafana: 24 columns, cells of 30 pixels and gaps of 8.
const COLUMNS = 24,
  CELL = 30,
  GAP = 8,
  PAGE = 1440,
  HEADING = 44;
const { given } = window;
const theme = createTheme({ colors: { mode: "dark" } });
const timeRange = {
  from: dateTime(given.from * 1000),
  to: dateTime(given.to * 1000),
  raw: { from: "now-30m", to: "now" },
};
window.failed = [];

// Grafana's editors of field options are not in its packages; taking values as they are is all that is needed of them.
const paths = new Set();
const leaves = (value, path) => {
  if (path === "custom" || path.startsWith("custom.") || path === "") {
    for (const key of Object.keys(value)) {
      if (path === "" || path === "custom") leaves(value[key], path === "" ? key : `${path}.${key}`);
    }
  }
  if (path !== "" && path !== "custom") paths.add(path);
};
for (const panel of given.dashboard.panels) {
  if (!panel.fieldConfig) continue;
  leaves(panel.fieldConfig.defaults, "");
  for (const { properties } of panel.fieldConfig.overrides) for (const { id } of properties) paths.add(id);
}
const fieldConfigRegistry = new Registry(() =>
  [...paths].map((id) => ({
    id,
    name: id,
    path: id.replace(/^custom\./, ""),
    isCustom: id.startsWith("custom."),
    process: (value) => value,
    shouldApply: () => true,
  })),
);
// Some stand in the list under two names.
const transformers = new Map(
  Object.values(standardTransformers).map((one) => [
    one.id,
    { id: one.id, name: one.name, transformation: async () => one },
  ]),
);
standardTransformersRegistry.setInit(() => [...transformers.values()]);

const legend = (format, labels) => format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? "");

function frames(panel) {
  const queries = given.answers[panel.id];
  return panel.targets.flatMap((target) =>
    target.format === "table"
      ? [rows(target, queries[target.refId])]
      : queries[target.refId].map((one) => series(target, one)),
  );
}

function series({ refId, legendFormat }, { metric, values }) {
  const { __name__, ...labels } = metric;
  const name = legend(legendFormat, labels);
  return createDataFrame({
    refId,
    name,
    fields: [
      {
        name: "Time",
        type: FieldType.time,
        config: { interval: given.step * 1000 },
        values: values.map(([time]) => time * 1000),
      },
      {
        name: "Value",
        type: FieldType.number,
        labels,
        config: name ? { displayNameFromDS: name } : {},
        values: values.map(([, value]) => Number(value)),
      },
    ],
  });
}

function rows({ refId }, answers) {
  const names = [...new Set(answers.flatMap(({ metric }) => Object.keys(metric)))];
  return createDataFrame({
    refId,
    fields: [
      { name: "Time", type: FieldType.time, values: answers.map(() => given.to * 1000) },
      ...names.map((name) => ({
        name,
        type: FieldType.string,
        values: answers.map(({ metric }) => metric[name] ?? null),
      })),
      { name: `Value #${refId}`, type: FieldType.number, values: answers.map(({ values }) => Number(values[0][1])) },
    ],
  });
}

function configured(panel, data) {
  const made = applyFieldOverrides({
    data,
    theme,
    fieldConfigRegistry,
    fieldConfig: panel.fieldConfig,
    timeZone: "utc",
    replaceVariables: (text) => text,
  });
  cacheFieldDisplayNames(made);
  return made;
}

function Inside({ panel, data, width, height }) {
  if (data.length === 0)
    return <div style={{ padding: 16, color: theme.colors.text.secondary }}>{panel.fieldConfig.defaults.noValue}</div>;
  switch (panel.type) {
    case "timeseries":
      return (
        <TimeSeries
          frames={data}
          timeRange={timeRange}
          timeZone="utc"
          width={width}
          height={height}
          legend={panel.options.legend}
          options={panel.options}
        />
      );
    case "state-timeline":
      return (
        <States
          frames={data}
          timeRange={timeRange}
          theme={theme}
          width={width}
          height={height}
          options={panel.options}
        />
      );
    case "table":
      return (
        <TableNG data={data[0]} width={width} height={height} timeRange={timeRange} fieldConfig={panel.fieldConfig} />
      );
    case "stat": {
      const [value] = getFieldDisplayValues({
        data,
        theme,
        fieldConfig: panel.fieldConfig,
        reduceOptions: panel.options.reduceOptions,
        sparkline: true,
        replaceVariables: (text) => text,
        timeZone: "utc",
      });
      return (
        <BigValue
          value={{ ...value.display, title: undefined }}
          sparkline={panel.options.graphMode === "area" ? value.sparkline : undefined}
          theme={theme}
          width={width}
          height={height}
          colorMode={BigValueColorMode.Value}
          justifyMode={BigValueJustifyMode.Center}
          textMode={BigValueTextMode.Value}
          graphMode={BigValueGraphMode.Area}
        />
      );
    }
    default:
      throw new Error(`${panel.type}: not a type that is drawn here`);
  }
}

class Guard extends Component {
  state = {};
  static getDerivedStateFromError(error) {
    return { error };
  }
  componentDidCatch(error) {
    window.failed.push(`${this.props.title}: ${error.message}`);
  }
  render() {
    return this.state.error ? String(this.state.error) : this.props.children;
  }
}

function Panel({ panel, data }) {
  const { x, y, w, h } = panel.gridPos;
  const column = (PAGE - GAP) / COLUMNS;
  const place = {
    position: "absolute",
    left: GAP + x * column,
    top: HEADING + y * (CELL + GAP),
    width: w * column - GAP,
    height: h * CELL + (h - 1) * GAP,
  };
  if (panel.type === "row") return <div style={{ ...place, ...theme.typography.h5, paddingTop: 4 }}>{panel.title}</div>;
  return (
    <div style={place}>
      <Guard title={panel.title}>
        <PanelChrome
          title={panel.title}
          width={place.width}
          height={place.height}
          padding={panel.type === "stat" ? "none" : "md"}
        >
          {(width, height) => <Inside panel={panel} data={data} width={width} height={height} />}
        </PanelChrome>
      </Guard>
    </div>
  );
}

async function drawn(panel) {
  if (panel.type === "row") return { panel };
  const transformed = (data) => new Promise((done) => transformDataFrame(panel.transformations, data).subscribe(done));
  const data = frames(panel).filter(({ length }) => length > 0);
  return { panel, data: configured(panel, panel.transformations ? await transformed(data) : data) };
}

const panels = await Promise.all(given.dashboard.panels.map(drawn));
const { y, h } = given.dashboard.panels.at(-1).gridPos;
const root = document.getElementById("root");
Object.assign(root.style, {
  position: "relative",
  width: `${PAGE}px`,
  height: `${HEADING + (y + h) * (CELL + GAP)}px`,
  background: theme.colors.background.canvas,
  color: theme.colors.text.primary,
});
document.body.style.margin = 0;
createRoot(root).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <div style={{ padding: "10px 12px", display: "flex", gap: 24, alignItems: "baseline" }}>
      <span style={{ ...theme.typography.h4, margin: 0 }}>{given.dashboard.title}</span>
      {given.variables.map(([label, value]) => (
        <span key={label} style={{ color: theme.colors.text.secondary }}>
          {label}: <b style={{ color: theme.colors.text.primary }}>{value}</b>
        </span>
      ))}
    </div>
    {panels.map(({ panel, data }) => (
      <Panel key={panel.id} panel={panel} data={data} />
    ))}
  </ThemeContext.Provider>,
);
// Charts draw in the frames after they are put in place.
let frame = 0;
const wait = () => (++frame > 30 ? (window.isDrawn = true) : requestAnimationFrame(wait));
requestAnimationFrame(wait);
